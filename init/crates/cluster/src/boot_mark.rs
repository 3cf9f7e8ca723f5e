//! Tells PID 1 that this boot is a good one: the node has been ready for a while without a break.

use std::sync::Arc;
use std::time::Duration;

use crate::node::Node;
use crate::report;

/// What fails within a minute of being ready was not well.
const SETTLED: Duration = Duration::from_mins(1);
const RETRY_PAUSE: Duration = Duration::from_secs(5);

pub async fn run(node: Arc<Node>) {
    let mut status = node.status.watch();
    loop {
        while !node.status.ready() {
            if status.changed().await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = stops_being_ready(&node) => continue,
            () = tokio::time::sleep(SETTLED) => {}
        }
        match node.control(|mut client| client.mark_boot_good()).await {
            Ok(()) => return report::info("the boot is marked good"),
            Err(error) => report::error(&error),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn stops_being_ready(node: &Node) {
    let mut status = node.status.watch();
    while node.status.ready() {
        if status.changed().await.is_err() {
            return;
        }
    }
}
