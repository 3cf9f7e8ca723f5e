//! Reads on a member that votes alone: they ask nobody, and are never old, also not while it gets company.

use std::cell::Cell;

use tokio::time::Instant;

use super::*;
use crate::simulation::clients::range;
use crate::simulation::operator::Operator;

async fn read(running: &Running, patience: Duration) -> Option<String> {
    let reading = running.process.scope(running.services.range(range("key")));
    let answer = tokio::time::timeout(patience, reading).await.ok()?.ok()?;
    answer.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

#[test]
fn a_sole_voter_reads_without_asking_anybody() {
    run(1, |world| async move {
        Operator::default().add(&world.0, true).await.unwrap();
        world.settle().await;
        let voter = world.leader().await;
        assert_eq!(voter.id, MemberId(1));
        for (cut, value) in [(false, "together"), (true, "alone")] {
            if cut {
                world.0.isolate(&voter, true, true);
            }
            let running = voter.running().unwrap();
            running.services.put(put("key", value)).await.unwrap();
            let began = Instant::now();
            assert_eq!(read(&running, DEADLINE).await.as_deref(), Some(value));
            assert_eq!(began.elapsed(), Duration::ZERO, "a round takes time, however short");
        }
        world.check().await;
    });
}

/// At any moment of the change from one voter to three it is cut off. Whatever the others then write, it must not answer as if they had not.
#[test]
fn a_sole_voter_that_gets_company_reads_nothing_stale() {
    let (written, alone) = (Cell::new(0), Cell::new(0));
    for seed in 1..=2 {
        for millis in (0..2400).step_by(150) {
            crate::simulation::run(seed, None, || async {
                let world = World(Cluster::found(1).await.unwrap());
                world.settle().await;
                world.put("key", "before").await;
                for _ in 0..2 {
                    Operator::default().add(&world.0, false).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(millis)).await;
                let old = world.0.slots()[0].clone();
                world.0.isolate(&old, true, true);
                let running = old.running().unwrap();
                let others = async {
                    for slot in world.0.slots().iter().skip(1).cycle() {
                        let putting = slot.running().unwrap().services;
                        let putting = tokio::time::timeout(Duration::from_secs(1), putting.put(put("key", "after")));
                        if let Ok(Ok(_)) = putting.await {
                            return;
                        }
                    }
                };
                let acknowledged = tokio::time::timeout(Duration::from_secs(10), others).await.is_ok();
                let answer = read(&running, Duration::from_secs(2)).await;
                if acknowledged {
                    written.set(written.get() + 1);
                    assert_ne!(answer.as_deref(), Some("before"), "seed {seed}, cut off after {millis} ms");
                } else {
                    alone.set(alone.get() + usize::from(answer.is_some()));
                }
                world.check().await;
            });
        }
    }
    let (written, alone) = (written.get(), alone.get());
    assert!(written > 0 && alone > 0, "{written} times the others could write, {alone} times it was still alone");
}
