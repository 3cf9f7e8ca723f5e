//! A connection to some API server, as soon as one can be had.
//!
//! The next server is tried a quarter of a second after the one before, or at once when that one refuses; the first
//! connection wins (RFC 8305 does the same for addresses). One that takes longer than a second is a black hole.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::pool::{Pool, Target};

const STAGGER: Duration = Duration::from_millis(250);
const DIAL_DEADLINE: Duration = Duration::from_secs(1);
/// How long a client waits for the first server to come back. Turned away, it would wait longer by itself.
const HOLD: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// `None` if no server could be had in time.
pub async fn dial(pool: &Pool) -> Option<(Arc<Target>, TcpStream)> {
    let end = Instant::now() + HOLD;
    loop {
        if let Some(connected) = first_of(pool.order()).await {
            return Some(connected);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn first_of(targets: Vec<Arc<Target>>) -> Option<(Arc<Target>, TcpStream)> {
    let mut waiting = targets.into_iter();
    let mut attempts = FuturesUnordered::new();
    loop {
        if let Some(target) = waiting.next() {
            attempts.push(connect(target));
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(attempt) = attempts.next() => if let Some(connected) = attempt {
                return Some(connected);
            },
            () = tokio::time::sleep(STAGGER), if more => {}
            // No attempt is left and no target either.
            else => return None,
        }
        if !more && attempts.is_empty() {
            return None;
        }
    }
}

async fn connect(target: Arc<Target>) -> Option<(Arc<Target>, TcpStream)> {
    let connecting = timeout(DIAL_DEADLINE, TcpStream::connect(target.address));
    let stream = connecting.await.ok()?.ok()?;
    Some((target, stream))
}
