//! The peer port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use prost::Message as _;
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::sync::Semaphore;

use super::frame::{self, Frame, Reader};
use super::wire::{AnswerRecord, HelloRecord, RequestRecord};
use super::{Answer, Failure, Handler, Hello, Lane, Refusal, Standing};
use crate::flags::{Endpoint, TlsFiles};
use crate::listener::{Connection, ListenError, Listener, Opening, Room};

/// Connections on which something was said: some lanes from each of a few members, and room for those that are gone and not yet known to be.
const CONNECTIONS: usize = 256;
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const HELLO_BYTES: usize = 4 << 10;
/// Forwarded requests under way on a connection; behind them the sender waits.
const FORWARDS: usize = 4096;
const CONTROLS: usize = 64;
/// What a message has around its largest part.
const OVERHEAD_BYTES: usize = 1 << 20;

/// Bound to its addresses, and not yet serving.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
}

impl Server {
    /// With room for so many connections, strangers' among them.
    pub async fn bind(endpoints: &[Endpoint], tls: Option<&TlsFiles>, connections: usize) -> Result<Self, ListenError> {
        let room = Room::new(connections);
        let mut listeners = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            listeners.push(Listener::bind(endpoint, tls, &room).await?);
        }
        Ok(Self { listeners })
    }

    /// Serves until it is dropped. `largest` is the size of the largest entry of the log.
    pub async fn serve(self, handler: Arc<dyn Handler>, largest: usize) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let limit = largest + OVERHEAD_BYTES + crate::raft::storage::REPLICATION_BYTES;
        let mut serving = tokio::task::JoinSet::new();
        for listener in self.listeners {
            serving.spawn(accept(listener, Arc::clone(&handler), Arc::clone(&connections), limit));
        }
        while serving.join_next().await.is_some() {}
    }
}

async fn accept(listener: Listener, handler: Arc<dyn Handler>, connections: Arc<Semaphore>, limit: usize) {
    // Ends with the listener, and ends its connections with it.
    let mut serving = tokio::task::JoinSet::new();
    let mut incoming = std::pin::pin!(listener.incoming(Opening::Bytes));
    while let Some(Ok(connection)) = incoming.next().await {
        while serving.try_join_next().is_some() {}
        // Those that begin to speak and do not go on leave after the hello's time.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let handler = Arc::clone(&handler);
        serving.spawn(async move {
            if let Err(error) = serve(connection, handler, limit).await {
                tracing::debug!(%error, "a connection of another member ended");
            }
            drop(permit);
        });
    }
}

async fn serve(connection: Connection, handler: Arc<dyn Handler>, limit: usize) -> io::Result<()> {
    let certificate = connection.peer_certificate().cloned();
    let (read, mut write) = tokio::io::split(connection);
    let mut reader = Reader::new(read, HELLO_BYTES);
    let first = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await??;
    let Some(first) = first else { return Ok(()) };
    let hello = HelloRecord::decode(first.body).map_err(io::Error::other)?;
    let certificate = certificate.as_ref();
    let admitted = hello.hello().and_then(|hello| check(handler.as_ref(), hello, certificate));
    let answer = Hello { from: handler.local(), target: hello.local().member_id, lane: Lane::Join };
    let mut answer = HelloRecord::new(&answer);
    answer.lane = hello.lane;
    answer.refusal = admitted.as_ref().err().map_or(0, |refusal| refusal.code());
    write.write_all(&frame::encode(first.id, &answer)).await?;
    write.flush().await?;
    match admitted {
        Ok((hello, mut standing)) => {
            reader.set_limit(limit);
            let still_admitted = || -> Result<(), Refusal> {
                if standing == Standing::Stranger {
                    standing = handler.admit(&hello, certificate)?;
                }
                Ok(())
            };
            let ended = answer_requests(reader, write, &hello, Arc::clone(&handler), still_admitted).await;
            if hello.lane == Lane::Control {
                handler.hung_up(hello.from.member_id);
            }
            ended
        }
        Err(refusal) => {
            tracing::warn!(member = %hello.local().member_id, %refusal, "a connection of another member is refused");
            Ok(())
        }
    }
}

fn check(
    handler: &dyn Handler,
    hello: Hello,
    certificate: Option<&rustls_pki_types::CertificateDer<'_>>,
) -> Result<(Hello, Standing), Refusal> {
    let local = handler.local();
    if hello.lane != Lane::Join {
        if hello.from.cluster_id != local.cluster_id {
            return Err(Refusal::Cluster);
        }
        if hello.target != local.member_id {
            return Err(Refusal::Target);
        }
    }
    let standing = handler.admit(&hello, certificate)?;
    Ok((hello, standing))
}

async fn answer_requests(
    mut reader: Reader<tokio::io::ReadHalf<Connection>>,
    mut write: WriteHalf<Connection>,
    hello: &Hello,
    handler: Arc<dyn Handler>,
    mut still_admitted: impl FnMut() -> Result<(), Refusal>,
) -> io::Result<()> {
    // What must not overtake each other is answered one after the other.
    let at_once = match hello.lane {
        Lane::Log | Lane::Snapshot | Lane::Join => 1,
        Lane::Control => CONTROLS,
        Lane::Forward => FORWARDS,
    };
    let mut under_way = FuturesUnordered::new();
    // Each time, since a member may be known to this one only after it has come.
    let counters = || handler.counters(hello.from.member_id);
    loop {
        tokio::select! {
            Some((id, answer)) = under_way.next() => {
                let frame = frame::encode(id, &AnswerRecord::from(answer));
                write.write_all(&frame).await?;
                write.flush().await?;
                if let Some(counters) = counters() {
                    counters.sent(frame.len());
                }
            }
            frame = reader.next(), if under_way.len() < at_once => match frame? {
                Some(frame) => {
                    still_admitted().map_err(io::Error::other)?;
                    if let Some(counters) = counters() {
                        counters.received(frame.wire_len());
                    }
                    under_way.push(answer(frame, hello, Arc::clone(&handler)));
                }
                None => return Ok(()),
            },
        }
    }
}

async fn answer(frame: Frame, hello: &Hello, handler: Arc<dyn Handler>) -> (u64, Answer) {
    let request = RequestRecord::decode(frame.body).map_err(Into::into).and_then(RequestRecord::request);
    let answer = match request {
        Ok(request) if hello.lane != Lane::Join || matches!(request, super::Request::ClusterInfo) => {
            handler.handle(hello.from.member_id, request).await
        }
        Ok(_) => Answer::Failed(Failure::NotUnderstood),
        Err(error) => {
            let error: super::wire::WireError = error;
            tracing::warn!(error = crate::logging::chain(&error), "a request of another member");
            Answer::Failed(Failure::NotUnderstood)
        }
    };
    (frame.id, answer)
}
