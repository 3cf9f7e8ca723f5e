//! Tells keelson-proxy of the cluster's API servers, and asks it how they are.
//!
//! A control plane knows them from the members' records, and its own from the beginning; a worker from its settings. The
//! whole set is sent at each change and now and then besides, so that it does not matter which of the two processes was
//! started again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keelson_config::Role;
use keelson_proxy::feed::{Client, Endpoint, Reply, Request, Set, Status};

use crate::node::{Member, Node};
use crate::report;

const API_SERVER_PORT: u16 = 6443;
/// A proxy that was started again has the last set from its disk meanwhile.
const REPEAT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub async fn run(node: Arc<Node>) {
    let member = node.member().await;
    let mut views = member.registry.as_ref().map(|registry| registry.view());
    let mut settings = member.worker.as_ref().map(|worker| worker.settings());
    let mut complaint = report::Complaint::default();
    loop {
        let pause = match send(&node, &member).await {
            Ok(()) => {
                complaint.passed();
                REPEAT
            }
            Err(reason) => {
                complaint.of(format!("telling the proxy of API servers: {reason}"));
                RETRY_PAUSE
            }
        };
        tokio::select! {
            () = changed(views.as_mut()) => {}
            () = changed(settings.as_mut()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What the proxy knows of API servers.
pub async fn status(node: &Node) -> io::Result<Status> {
    let mut client = Client::connect(&node.paths.proxy_feed()).await?;
    match client.ask(&Request::Status {}).await? {
        Reply::Status(status) => Ok(status),
        Reply::Refused { reason } => Err(io::Error::other(reason)),
        Reply::Applied { .. } => Err(io::Error::other("it answered another question")),
    }
}

/// Waits for ever if there is nothing to follow.
pub(crate) async fn changed<T>(receiver: Option<&mut tokio::sync::watch::Receiver<T>>) {
    let news = match receiver {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => false,
    };
    if !news {
        std::future::pending::<()>().await;
    }
}

async fn send(node: &Node, member: &Member) -> Result<(), String> {
    let set = Set {
        version: boot_milliseconds(),
        authority: member.trust().kubernetes_serving.pem(),
        endpoints: endpoints(member),
    };
    let asking = async {
        let mut client = Client::connect(&node.paths.proxy_feed()).await?;
        client.ask(&Request::Set(set)).await
    };
    match asking.await {
        Ok(Reply::Applied { .. }) => Ok(()),
        Ok(Reply::Refused { reason }) => Err(reason),
        Ok(Reply::Status(_)) => Err("it answered another question".to_owned()),
        Err(error) => Err(report::chain(&error)),
    }
}

/// Grows whatever happens to the wall clock and to this process.
fn boot_milliseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

fn endpoints(member: &Member) -> Vec<Endpoint> {
    let own = &member.identity.name;
    let remote = |address: IpAddr| Endpoint { address: SocketAddr::new(address, API_SERVER_PORT), local: false };
    let parsed = |addresses: &[String]| {
        addresses.iter().filter_map(|address| address.parse().ok()).map(remote).collect::<Vec<_>>()
    };
    if let Some(worker) = &member.worker {
        return worker.settings_now().control_planes.iter().flat_map(|plane| parsed(&plane.addresses)).collect();
    }
    let local = Endpoint { address: (Ipv4Addr::LOCALHOST, API_SERVER_PORT).into(), local: true };
    let view = member.registry.as_ref().and_then(|registry| registry.view_now());
    let others = view.iter().flat_map(|view| view.nodes.values());
    let others = others.filter(|record| record.role == Role::ControlPlane && record.name != *own);
    std::iter::once(local).chain(others.flat_map(|record| parsed(&record.addresses))).collect()
}
