//! kill -9 in a loop under writes: no acknowledged write is lost, none comes back in another order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{Store, get, put};

const CLIENTS: usize = 8;
const LIVES: u64 = 8;
/// Between connections and kill: long enough for writes, checkpoints and purges to be under way.
const LIFE: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_no_acknowledged_write() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
    let mut total = 0;
    for life in 1..=LIVES {
        let mut store = Store::start(&data_dir, &[]);
        let mut client = store.client().await;
        for (number, acknowledged) in acknowledged.iter().enumerate() {
            let expected = acknowledged.load(Ordering::SeqCst);
            let found = get(&mut client, &format!("client-{number}")).await;
            let found: u64 = found.map_or(0, |value| value.trim_end().parse().unwrap());
            assert!(found >= expected, "life {life}, client {number}: {found} was read and {expected} acknowledged");
        }
        let writers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (mut client, acknowledged) = (client.clone(), Arc::clone(&acknowledged));
                tokio::spawn(async move {
                    let mut written = 0_u64;
                    for serial in 1.. {
                        let value = life * 1_000_000 + serial;
                        let request = put(&format!("client-{number}"), format!("{value:<4000}"));
                        if client.put(request).await.is_err() {
                            break;
                        }
                        acknowledged[number].store(value, Ordering::SeqCst);
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        tokio::time::sleep(LIFE).await;
        store.kill();
        for writer in writers {
            total += writer.await.unwrap();
        }
    }
    assert!(total > LIVES * CLIENTS as u64, "{total} writes in {LIVES} lives prove nothing");
}
