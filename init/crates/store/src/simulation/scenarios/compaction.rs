//! What went wrong with compactions.

use super::*;

/// The newest revision was a deletion that a compaction removed; after a crash the store counted from an older one.
#[test]
fn issue_17780_a_crash_after_a_compaction_takes_no_revision_back() {
    run(1, |world| async move {
        for number in 0..20 {
            world.put(&format!("key/{number}"), "value").await;
        }
        let services = &world.running(0).services;
        let mut revision = 0;
        for number in 0..20 {
            revision = services.delete(delete(&format!("key/{number}"))).await.unwrap().header.unwrap().revision;
        }
        services.compact(revision).await.unwrap();
        services.node().checkpoint().await.unwrap();
        for _ in 0..3 {
            world.cut_and_restart(&world.0.slots()[0]).await;
            world.settle().await;
            assert_eq!(world.revisions(), [revision]);
        }
        assert_eq!(world.put("key", "value").await, revision + 1);
        world.check().await;
    });
}

/// A compaction at the revision of a deletion removed the deletion's event from the history.
#[test]
fn issue_18089_a_deletion_at_the_compacted_revision_is_told() {
    run(3, |world| async move {
        world.put("key", "value").await;
        let services = &world.running(0).services;
        let deleted = services.delete(delete("key")).await.unwrap().header.unwrap().revision;
        services.compact(deleted).await.unwrap();
        let last = world.put("other", "value").await;
        world.settle().await;
        for number in 0..3 {
            let running = world.running(number);
            // Also where it is gone physically.
            running.node().state().public().compacted(deleted).await;
            let mut watching = Watching::open(&running, vec![from(deleted, 1)]);
            watching.read_until(last).await;
            assert_eq!(watching.events(), 2);
            watching.check();
        }
    });
}

/// The same, for a watch that is opened while the compaction is on its way.
#[test]
fn issue_19179_a_watch_opened_during_the_compaction_is_told_the_deletion() {
    run(3, |world| async move {
        for round in 0..20 {
            world.put("key", "value").await;
            let running = world.running(round % 3);
            let deleted = running.services.delete(delete("key")).await.unwrap().header.unwrap().revision;
            let mut watching = Watching::open(&world.running((round + 1) % 3), vec![from(deleted, 1)]);
            let compacting = running.services.compact(deleted);
            let (compacted, ()) = futures::future::join(compacting, watching.read_until(deleted)).await;
            compacted.unwrap();
            assert_eq!(watching.events(), 1, "round {round}");
            watching.check();
        }
        world.check().await;
    });
}

/// A transaction that also read a compacted revision had half of its effect, and not on all members.
#[test]
fn issue_18667_a_transaction_that_reads_the_compacted_past_has_no_effect() {
    run(3, |world| async move {
        let mut revision = 0;
        for number in 0..10 {
            revision = world.put("key", &number.to_string()).await;
        }
        world.running(0).services.compact(revision - 2).await.unwrap();
        let op = |request| pb::RequestOp { request: Some(request) };
        let past = pb::RangeRequest { revision: revision - 5, ..crate::simulation::clients::range("key") };
        let success = vec![
            op(pb::request_op::Request::RequestPut(put("other", "value"))),
            op(pb::request_op::Request::RequestRange(past)),
        ];
        let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        for number in 0..3 {
            let refused = world.running(number).services.txn(txn.clone()).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
        }
        world.settle().await;
        assert_eq!(world.revisions(), [revision; 3]);
        let read = world.running(2).services.range(crate::simulation::clients::range("other")).await.unwrap();
        assert!(read.kvs.is_empty());
        world.check().await;
    });
}

/// A snapshot that a member installed took the place of what it was being read, and the reader went on in it (here, not in etcd): what had been compacted
/// in it was missing from the answer.
#[test]
fn a_read_under_which_a_snapshot_is_installed_is_complete_or_fails() {
    for compact in [false, true] {
        run(3, |world| async move {
            for number in 10..50 {
                world.put(&format!("key/{number}"), "before").await;
            }
            world.settle().await;
            let follower = world.follower().await;
            let running = follower.running().unwrap();
            let keys = crate::simulation::clients::range("key/");
            let keys = pb::RangeRequest { range_end: "key0".into(), serializable: true, ..keys };
            let mut pieces = running.services.range_stream(keys).await.unwrap();
            let mut kvs = pieces.next().await.unwrap().unwrap().range_response.unwrap().kvs;
            assert!(kvs.len() < 20);

            world.0.isolate(&follower, true, true);
            for number in 10..50 {
                world.put_elsewhere(Some(follower.id), &format!("key/{number}"), "after").await;
            }
            let last = world.put_much(Some(follower.id)).await;
            if compact {
                world.leader().await.running().unwrap().services.compact(last).await.unwrap();
            }
            world.0.network.heal();
            world.settle().await;
            assert!(running.node().state().public().revision() >= last);
            let mut end = Ok(());
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => kvs.extend(piece.range_response.unwrap().kvs),
                    Err(status) => end = Err(status.code()),
                }
            }
            if compact {
                assert_eq!(end, Err(tonic::Code::OutOfRange));
            } else {
                assert_eq!((end, kvs.len()), (Ok(()), 40));
                assert!(kvs.iter().all(|kv| kv.value == "before"), "of another revision");
            }
        });
    }
}
