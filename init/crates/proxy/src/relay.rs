//! One connection, in both directions, until one end closes or its server is given up.
//!
//! The end of one direction is passed on and the other goes on, as TCP has it. Each direction has one buffer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use crate::dial;
use crate::pool::{Pool, Target};
use crate::sockets;

/// A TLS record.
const BUFFER_BYTES: usize = 16 * 1024;

pub async fn run(pool: Arc<Pool>, client: TcpStream) {
    if sockets::watch_peer(&client).is_err() {
        return;
    }
    pool.waiting.fetch_add(1, Ordering::Relaxed);
    let dialled = tokio::select! {
        dialled = dial::dial(&pool) => dialled,
        // Who has gone away needs no server.
        () = closed(&client) => None,
    };
    pool.waiting.fetch_sub(1, Ordering::Relaxed);
    match dialled {
        Some((target, server)) if sockets::watch_peer(&server).is_ok() => relay(&target, client, server).await,
        _ => drop(sockets::reset_on_close(&client)),
    }
}

/// Returns when the client has reset or closed its connection before it was served.
async fn closed(client: &TcpStream) {
    let mut byte = [0];
    loop {
        match client.peek(&mut byte).await {
            Ok(0) | Err(_) => return,
            // What it has sent is there to stay; its close cannot be seen behind it.
            Ok(_) => std::future::pending::<()>().await,
        }
    }
}

async fn relay(target: &Target, mut client: TcpStream, mut server: TcpStream) {
    target.connections.fetch_add(1, Ordering::Relaxed);
    target.connections_total.fetch_add(1, Ordering::Relaxed);
    let mut resets = target.resets();
    resets.mark_unchanged();
    let copying = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES);
    let ended = tokio::select! {
        ended = copying => Some(ended),
        _ = resets.changed() => None,
    };
    if let Some(Ok((up, down))) = ended {
        target.bytes_up.fetch_add(up, Ordering::Relaxed);
        target.bytes_down.fetch_add(down, Ordering::Relaxed);
    } else {
        // One end broke, or the server was given up: the other end learns it as a reset, not as an end of the data.
        let _ = sockets::reset_on_close(&client);
        let _ = sockets::reset_on_close(&server);
    }
    target.connections.fetch_sub(1, Ordering::Relaxed);
}
