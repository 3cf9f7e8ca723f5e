//! Waiting for what comes in its own time.

use std::time::{Duration, Instant};

use crate::DEADLINE;

/// Waits for a condition, and says which one did not come.
pub(crate) async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
