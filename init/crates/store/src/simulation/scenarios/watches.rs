//! What went wrong with watches.

use super::*;

/// A progress mark overtook events of the same stream.
#[test]
fn issue_15220_progress_comes_behind_the_events_of_the_stream() {
    run(1, |world| async move {
        let mut last = 0;
        for number in 0..50 {
            last = world.put(&format!("key/{}", number % 5), "value").await;
        }
        let mut watching = Watching::open(&world.running(0), vec![from(1, 1), from(10, 2), from(0, 3)]);
        watching.ask_for_progress();
        watching.ask_for_progress();
        watching.read_until(last).await;
        // The first write is revision 2, the last 51.
        assert_eq!(watching.events(), 50 + 42);
        watching.check();
    });
}

/// After a partition a watch was told events that it had been told before.
#[test]
fn issue_15271_a_watch_does_not_go_back_in_time_after_a_partition() {
    run(3, |world| async move {
        let follower = world.follower().await;
        world.put("key", "before").await;
        let running = follower.running().unwrap();
        let mut watching = Watching::open(&running, vec![from(1, 1)]);
        watching.read_until(2).await;
        watching.session.complete = false;
        world.0.isolate(&follower, true, true);
        // It needs a snapshot, which replaces the state under the watch.
        let last = world.put_much(Some(follower.id)).await;
        world.0.network.heal();
        watching.read_until(last).await;
        watching.check();
        world.check().await;
    });
}

/// An event was told twice when a transaction's reads were served from a cache of its writes.
#[test]
fn issue_17247_a_transactions_events_are_told_once() {
    run(3, |world| async move {
        let mut watching = Watching::open(&world.running(1), vec![from(0, 1), from(1, 2)]);
        watching.read_until(1).await;
        watching.session.complete = false;
        let op = |request| pb::RequestOp { request: Some(request) };
        let write = |key: &str| op(pb::request_op::Request::RequestPut(put(key, "value")));
        let read = |key: &str| op(pb::request_op::Request::RequestRange(crate::simulation::clients::range(key)));
        let remove = |key: &str| op(pb::request_op::Request::RequestDeleteRange(delete(key)));
        world.put("c", "old").await;
        let success = vec![read("a"), write("a"), read("a"), write("b"), remove("c"), read("c"), remove("d")];
        let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        let answer = world.running(0).services.txn(txn).await.unwrap();
        watching.read_until(answer.header.unwrap().revision).await;
        assert_eq!(watching.events(), 2 * (1 + 3));
        watching.check();
        world.check().await;
    });
}

/// A stream that was read too slowly lost events.
#[test]
fn issue_17529_a_stream_that_is_read_slowly_loses_nothing() {
    run(1, |world| async move {
        let mut watching = Watching::open(&world.running(0), (1..=100).map(|id| from(1, id)).collect());
        watching.next(DEADLINE).await;
        let mut last = 0;
        // More than a stream's queue takes.
        for number in 0..60 {
            last = world.put(&format!("key/{}", number % 5), "value").await;
        }
        watching.read_until(last).await;
        assert_eq!(watching.events(), 100 * 60);
        watching.check();
    });
}

/// A watch of a revision to come was told older events, or marks, by a member that was behind or took a snapshot.
#[test]
fn issue_20221_a_watch_of_the_future_is_told_nothing_before_it() {
    run(3, |world| async move {
        let follower = world.follower().await;
        let running = follower.running().unwrap();
        world.0.isolate(&follower, true, true);
        let present = world.put("key", "value").await;
        let future = present + 30;
        let mut watching = Watching::open(&running, vec![from(future, 1)]);
        watching.ask_for_progress();
        assert!(watching.next(Duration::from_secs(2)).await.unwrap().created);
        assert!(watching.next(Duration::from_secs(2)).await.is_none(), "nothing is told of what is before it");
        let last = world.put_much(Some(follower.id)).await;
        world.0.network.heal();
        watching.read_until(last).await;
        assert_eq!(i64::try_from(watching.events()).unwrap(), last - future + 1);
        watching.check();
    });
}

/// Whoever was far behind kept the other watches of its stream waiting, and the thread that read for it all others (here, not in etcd, which has one
/// task for all that are behind).
#[test]
fn watches_that_are_far_behind_take_turns_and_let_others_go_on() {
    run(1, |world| async move {
        let put = |number: u32| pb::request_op::Request::RequestPut(put(&format!("key/{number}"), "value"));
        let success = (0..100).map(|number| pb::RequestOp { request: Some(put(number)) }).collect();
        let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        let running = world.running(0);
        let mut last = 0;
        // Several times what is read in one go.
        for _ in 0..70 {
            last = running.services.txn(txn.clone()).await.unwrap().header.unwrap().revision;
        }
        let mut watching = Watching::open(&running, vec![from(1, 1), from(1, 2)]);
        watching.read_until(last).await;
        watching.check();
        let told: Vec<i64> = watching
            .session
            .answers
            .iter()
            .filter(|answer| !answer.events.is_empty())
            .map(|answer| answer.watch_id)
            .collect();
        assert!(told.len() > 6 && told.windows(2).all(|pair| pair[0] != pair[1]), "{told:?}");

        let nothing = pb::WatchCreateRequest { key: "nothing".into(), range_end: "".into(), ..from(1, 1) };
        let mut watching = Watching::open(&running, vec![nothing]);
        assert!(watching.next(DEADLINE).await.unwrap().created);
        watching.ask_for_progress();
        let mut polls = 0;
        let told = std::future::poll_fn(|context| {
            polls += 1;
            watching.answers.poll_next_unpin(context)
        });
        assert_eq!(told.await.unwrap().unwrap().header.unwrap().revision, last);
        assert!(polls > 3, "{polls}");
    });
}
