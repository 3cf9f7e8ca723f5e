//! Whether the components still live: each is asked again and again, and several failures in a row, after it has once answered, are
//! reported. PID 1 decides then. One that has not answered this process yet may be starting, unless PID 1 has called it ready for longer
//! than a start takes. Those that say by themselves that they live (`watchdog_seconds`) are PID 1's own matter.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use keelson_etcd_api::grpc::health::v1::HealthCheckRequest;
use keelson_etcd_api::grpc::health::v1::health_check_response::ServingStatus;
use keelson_etcd_api::grpc::health::v1::health_client::HealthClient;
use keelson_pki::TrustAnchors;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use super::{Failure, PROBE_DEADLINE, answers, no_success};
use crate::client::{Client, ClientError};
use crate::node::Node;
use crate::{report, supervision};

const INTERVAL: Duration = Duration::from_secs(10);
/// kubeadm's figures: a restart in the middle of a shortage makes the shortage worse.
const UNHEALTHY_FAILURES: u32 = 8;
/// kubeadm's startup probes give as long.
const START_MAX: Duration = Duration::from_mins(4);
// PID 1 goes by this.
const _: () = {
    let asked_in_vain = INTERVAL.saturating_add(PROBE_DEADLINE).saturating_mul(UNHEALTHY_FAILURES);
    let report = START_MAX.saturating_add(asked_in_vain).as_secs();
    assert!(report <= keelson_control::UNHEALTHY_REPORT_MAX.as_secs(), "a report comes later than PID 1 takes it to");
};
/// Health paths answer a few words, or a line for each of their checks.
const ANSWER_MAX: usize = 64 << 10;

/// Components of a control plane with a health path behind TLS, on the loopback.
const CONTROL_PLANE: [(&str, u16, &str); 3] = [
    ("kube-apiserver", 6443, "/livez"),
    ("kube-controller-manager", 10257, "/healthz"),
    ("kube-scheduler", 10259, "/healthz"),
];
/// Those of every node, without TLS.
const NODE: [(&str, u16, &str); 2] = [("kubelet", 10248, "/healthz"), ("kube-proxy", 10256, "/livez")];
const CONTAINERD: &str = "containerd";

/// Asks all components that run here.
pub(super) fn watch(node: &Arc<Node>, authority: &TrustAnchors, is_control_plane: bool) {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for (service, port, path) in CONTROL_PLANE.into_iter().filter(|_| is_control_plane) {
        match Client::new(local(port), authority, None) {
            Ok(client) => watch_one(node, service, Question::Tls { client, path }),
            Err(error) => report::error(&error),
        }
    }
    for (service, port, path) in NODE {
        watch_one(node, service, Question::Plain { server: local(port), path });
    }
    watch_one(node, CONTAINERD, Question::Grpc { socket: node.paths.containerd_socket() });
}

fn watch_one(node: &Arc<Node>, service: &'static str, question: Question) {
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let mut tally = Tally::default();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let answer = question.ask().await;
            if answer.is_err() && tally.failures.is_none() && has_started(&node, service).await {
                tally.failures = Some(0);
            }
            let Some(reason) = tally.count(answer) else { continue };
            report::info(format!("{service}: {reason}"));
            if let Err(error) = supervision::report_unhealthy(&node, service, &reason).await {
                report::error(&error);
            }
        }
    });
}

/// Whether PID 1 has called it ready for so long that it cannot be starting.
async fn has_started(node: &Node, service: &str) -> bool {
    supervision::ready_for(node, service).await.is_some_and(|ready| ready >= START_MAX)
}

enum Question {
    Tls {
        client: Client,
        path: &'static str,
    },
    Plain {
        server: SocketAddr,
        path: &'static str,
    },
    /// gRPC's health protocol, of the server as a whole.
    Grpc {
        socket: PathBuf,
    },
}

impl Question {
    async fn ask(&self) -> Result<(), Failure> {
        match self {
            Self::Tls { client, path } => answers(client, path).await,
            Self::Plain { server, path } => in_time(ask_plainly(*server, path)).await,
            Self::Grpc { socket } => in_time(ask_for_health(&socket.display().to_string())).await,
        }
    }
}

async fn in_time(asked: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let late = || Failure::Unwell(format!("no answer within {} s", PROBE_DEADLINE.as_secs()));
    tokio::time::timeout(PROBE_DEADLINE, asked).await.unwrap_or_else(|_| Err(late()))
}

/// One connection for each question, as a kubelet asks its containers.
async fn ask_plainly(server: SocketAddr, path: &'static str) -> Result<(), Failure> {
    let stream = TcpStream::connect(server)
        .await
        .map_err(|source| Failure::Absent(report::chain(&ClientError::Connect { server, source })))?;
    let unwell = |error: hyper::Error| Failure::Unwell(format!("{path}: {}", report::chain(&error)));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unwell)?;
    let connection = tokio::spawn(connection);
    let asked = async {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = Uri::from_static(path);
        let host = server.to_string().parse().map_err(|_| Failure::Unwell(format!("{server} is no host")))?;
        request.headers_mut().insert(hyper::header::HOST, host);
        let response = sender.send_request(request).await.map_err(unwell)?;
        let status = response.status();
        // What it says is read where it says no.
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if status.is_success() { Ok(()) } else { Err(no_success(path, status, &body)) }
    };
    let answer = asked.await;
    connection.abort();
    answer
}

async fn ask_for_health(socket: &str) -> Result<(), Failure> {
    let endpoint = Endpoint::from_shared(format!("unix://{socket}"));
    let channel = match endpoint {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => Err(error),
    };
    let channel = channel.map_err(|error| Failure::Absent(report::chain(&error)))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    let status = answer.map_err(|status| Failure::Unwell(report::chain(&status)))?.into_inner().status();
    if status == ServingStatus::Serving { Ok(()) } else { Err(Failure::Unwell(format!("it says {status:?}"))) }
}

/// What a component has answered since it was last reported.
#[derive(Default)]
struct Tally {
    /// In a row; none until it has once answered, or must have started.
    failures: Option<u32>,
}

impl Tally {
    /// Why it is to be reported, if it is.
    fn count(&mut self, answer: Result<(), Failure>) -> Option<String> {
        let failure = match answer {
            Ok(()) => {
                self.failures = Some(0);
                return None;
            }
            Err(failure) => failure,
        };
        // It may be starting.
        let failures = self.failures? + 1;
        if failures < UNHEALTHY_FAILURES {
            self.failures = Some(failures);
            return None;
        }
        self.failures = None;
        Some(format!("{UNHEALTHY_FAILURES} probes in a row failed: {}", failure.into_reason()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::path::Path;

    use http_body_util::Full;
    use hyper::Response;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn failure(reason: &str) -> Result<(), Failure> {
        Err(Failure::Unwell(reason.to_owned()))
    }

    #[test]
    fn only_failures_in_a_row_of_one_that_has_answered_are_reported() {
        let mut tally = Tally::default();
        for _ in 0..2 * UNHEALTHY_FAILURES {
            assert_eq!(tally.count(failure("it starts")), None);
        }
        for round in 0..2 {
            assert_eq!(tally.count(Ok(())), None, "{round}");
            for _ in 1..UNHEALTHY_FAILURES {
                assert_eq!(tally.count(failure("once")), None, "{round}");
            }
        }
        assert_eq!(tally.count(failure("again")).as_deref(), Some("8 probes in a row failed: again"));
        assert_eq!(tally.count(failure("it starts anew")), None);
    }

    #[tokio::test]
    async fn a_component_without_tls_is_well_if_it_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let work = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                    let (code, text) = if request.uri().path() == "/well" { (200, "ok") } else { (503, "[-]syncloop") };
                    let response = Response::builder().status(code).body(Full::<Bytes>::from(text)).unwrap();
                    Ok::<_, Infallible>(response)
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        let ask = async |path| Question::Plain { server, path }.ask().await.map_err(Failure::into_reason);
        assert_eq!(ask("/well").await, Ok(()));
        assert_eq!(ask("/ill").await, Err("/ill answers 503 Service Unavailable [-]syncloop".to_owned()));
        work.abort();
        let _ = work.await;
        let absent = ask("/well").await.unwrap_err();
        assert!(absent.contains(&format!("connecting to {server}")), "{absent}");
    }

    /// Answers every question for health with `status`, as gRPC frames it: a byte, the length, and the message, whose field 1 it is.
    fn serve_health(socket: &Path, status: u8) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let message = Full::<Bytes>::from(vec![0, 0, 0, 0, 2, 0x08, status]);
                    let trailers =
                        hyper::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                    let body = message.with_trailers(async move { Some(Ok(trailers)) });
                    let response = Response::builder().header("content-type", "application/grpc").body(body).unwrap();
                    Ok::<_, Infallible>(response)
                });
                tokio::spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }

    #[tokio::test]
    async fn containerd_is_well_if_its_server_says_that_it_serves() {
        let directory = tempfile::tempdir().unwrap();
        let [well, ill, absent] = ["well", "ill", "absent"].map(|name| directory.path().join(name));
        serve_health(&well, 1);
        serve_health(&ill, 2);
        let ask = async |socket: &Path| {
            Question::Grpc { socket: socket.to_owned() }.ask().await.map_err(Failure::into_reason)
        };
        assert_eq!(ask(&well).await, Ok(()));
        assert_eq!(ask(&ill).await, Err("it says NotServing".to_owned()));
        assert!(ask(&absent).await.is_err());
    }
}
