//! Leases whose remaining time was written down for whoever leads next.

use super::*;
use crate::lease::LeaseId;

const TTL: i64 = 2000;
/// Between two times that it is written down, and a moment.
const WRITTEN: Duration = Duration::from_secs(310);

/// What was written down of a lease's remaining time; 0 if nothing was.
fn written(running: &Running, id: i64) -> i64 {
    let lease = |mvcc: &crate::mvcc::Mvcc, _| mvcc.leases.get(LeaseId(id)).map(|lease| lease.remaining_seconds);
    running.node().state().public().read(lease).expect("the lease is there")
}

async fn left(running: &Running, id: i64) -> i64 {
    let left = running.services.time_to_live(id).await.unwrap();
    left.expect("the lease is there")
}

/// The next leader goes on where a lease was, unless it was renewed since: then it owes it all of its time.
#[test]
fn a_renewal_clears_what_was_written_down_before_it_is_answered() {
    run(1, |world| async move {
        let running = world.running(0);
        for id in [1, 2] {
            running.services.grant(id, TTL).await.unwrap();
        }
        tokio::time::sleep(WRITTEN).await;
        for id in [1, 2] {
            let written = written(&running, id);
            assert!((TTL - 310..=TTL - 200).contains(&written), "lease {id}: {written} s");
        }
        assert_eq!(running.services.keep_alive(2).await.unwrap(), Some(TTL));
        // In the state when the renewal is answered, and so in the log of whoever has the state after.
        assert_eq!(written(&running, 2), 0);
        assert!(written(&running, 1) > 0);

        let slot = world.0.slots()[0].clone();
        world.cut_and_restart(&slot).await;
        world.settle().await;
        let running = world.running(0);
        let (first, second) = (left(&running, 1).await, left(&running, 2).await);
        assert!(first <= TTL - 200, "the lease that was not renewed has {first} s again");
        assert!(second > TTL - 60, "the lease that was renewed has {second} s only");
    });
}
