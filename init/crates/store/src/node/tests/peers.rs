//! What other members ask, and who they are to ask it.

use super::*;
use crate::log::{Entry, Payload, Vote};
use crate::member::Membership;
use crate::peer::{
    Answer, Append, Ballot, Change, Failure, Handler as _, Request, SnapshotBegin, SnapshotRows, Transfer,
};
use crate::state::{Row, Table};

/// The first of three founders, the others of which cannot be reached.
async fn begin_one_of_three(disk: &FakeDisk) -> Arc<Node<Model>> {
    let founders = [1, 2, 3].map(|id| (MemberId(id), Member { name: format!("m{id}"), ..Member::default() }));
    let config = Config { initial: Initial::Found(founders.into()), ..config() };
    let identity = Identity::create(disk, &SystemRandom, MemberId(1), 7, false).unwrap();
    let (shared, random) = (Arc::new(disk.clone()), Arc::new(SystemRandom));
    Node::begin(config, identity, shared, random, Model::default(), Arc::new(NoPeers)).await.unwrap()
}

fn vote(term: u64, member: u64, committed: bool) -> Vote {
    Vote { term, member: MemberId(member), committed }
}

fn ballot(term: u64, member: u64) -> Ballot {
    // Ahead of all that is in these logs.
    let last = Some(LogId { term, index: 100 });
    Ballot { vote: vote(term, member, false), last, leadership_transfer: false }
}

fn append(term: u64, leader: u64, previous: Option<LogId>, entries: Vec<Entry>) -> Request {
    let committed = entries.last().map(|entry| entry.id);
    Request::Append(Append { vote: vote(term, leader, true), previous, committed, entries })
}

fn heartbeat(term: u64, leader: u64) -> Request {
    append(term, leader, None, Vec::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_asked_for_its_vote_at_once_goes_on_to_wait_for_the_others() {
    let node = begin_one_of_three(&FakeDisk::new()).await;
    let answer = Arc::clone(&node).handle(MemberId(2), Request::Vote(ballot(9, 2))).await;
    assert!(matches!(answer, Answer::Voted { granted: true, .. }), "{answer:?}");
    let waiting = tokio::time::timeout(Duration::from_millis(500), node.ready()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_in_the_name_of_another() {
    let node = begin_one_of_three(&FakeDisk::new()).await;
    let ask = |from, request| Arc::clone(&node).handle(MemberId(from), request);
    let begin = SnapshotBegin {
        transfer: 1,
        vote: vote(9, 3, true),
        last: None,
        membership: Membership::default(),
        membership_id: None,
        bytes: None,
    };
    for request in [
        Request::PreVote(ballot(9, 3)),
        Request::Vote(ballot(9, 3)),
        heartbeat(9, 3),
        Request::Transfer(Transfer { from: vote(9, 3, true), to: MemberId(1), last: None }),
        Request::SnapshotBegin(begin),
    ] {
        let answer = ask(2, request).await;
        assert!(matches!(answer, Answer::Failed(Failure::NotLeader(None))), "{answer:?}");
    }
    let answer = ask(3, Request::Vote(ballot(9, 3))).await;
    assert!(matches!(answer, Answer::Voted { granted: true, .. }), "{answer:?}");

    let node = start(&FakeDisk::new()).await.unwrap();
    let id = MemberId(2);
    let add = Change::Add { peer_urls: vec!["http://nowhere:1".into()], learner: true, id, name: String::new() };
    node.change(add).await.unwrap();
    let Local { member_id: id, store_id, .. } = node.local();
    let publish = Change::Publish { id, name: "other".into(), client_urls: Vec::new(), store_id, level: 1 };
    let answer = Arc::clone(&node).handle(MemberId(2), Request::Change(publish)).await;
    assert!(matches!(answer, Answer::Failed(Failure::NotLeader(None))), "{answer:?}");
}

/// A member that is behind does not know all who lead it. It needs nobody else, and those whom it knows less than all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_listened_to_only_while_no_other_leads() {
    let node = begin_one_of_three(&FakeDisk::new()).await;
    let ask = |from, request| Arc::clone(&node).handle(MemberId(from), request);
    let answer = ask(9, Request::PreVote(ballot(5, 9))).await;
    assert!(matches!(answer, Answer::Voted { granted: true, .. }), "{answer:?}");

    assert!(matches!(ask(2, heartbeat(6, 2)).await, Answer::Appended));
    for request in [heartbeat(7, 9), Request::Vote(ballot(7, 9)), Request::SnapshotEnd(1)] {
        let answer = ask(9, request).await;
        assert!(matches!(answer, Answer::Failed(Failure::NotLeader(None))), "{answer:?}");
    }
    assert!(matches!(ask(9, Request::ClusterInfo).await, Answer::Cluster(_)));

    until("the leader is known", || node.status().leader == Some(MemberId(2))).await;
    until("the leader is missed", || node.status().leader.is_none()).await;
    for _ in 0..2 {
        assert!(matches!(ask(9, heartbeat(7, 9)).await, Answer::Appended), "whoever leads goes on");
    }
    let answer = ask(8, heartbeat(8, 8)).await;
    assert!(matches!(answer, Answer::Failed(Failure::NotLeader(None))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_is_told_so_and_not_listened_to() {
    let node = begin_one_of_three(&FakeDisk::new()).await;
    let ask = |from, request| Arc::clone(&node).handle(MemberId(from), request);
    let first = LogId { term: 0, index: 0 };
    let blank = Entry { id: LogId { term: 1, index: 1 }, payload: Payload::Blank };
    assert!(matches!(ask(2, append(1, 2, Some(first), vec![blank.clone()])).await, Answer::Appended));
    let roll = Arc::clone(&node.roll);
    until("the founders are known", || roll.lock().unwrap().members.len() == 3).await;
    let mut left = node.cluster_info().membership;
    left.members.remove(&MemberId(3));
    left.voters[0].remove(&MemberId(3));
    let removal = Entry { id: LogId { term: 1, index: 2 }, payload: Payload::Membership(Arc::new(left)) };
    assert!(matches!(ask(2, append(1, 2, Some(blank.id), vec![removal])).await, Answer::Appended));
    until("the removal is known", || !roll.lock().unwrap().removed.is_empty()).await;

    until("the leader is missed", || node.status().leader.is_none()).await;
    let answer = ask(3, Request::PreVote(ballot(5, 3))).await;
    assert!(matches!(answer, Answer::Failed(Failure::NotLeader(None))), "{answer:?}");
    let answer = ask(3, Request::ClusterInfo).await;
    assert!(
        matches!(&answer, Answer::Cluster(info) if !info.membership.members.contains_key(&MemberId(3))),
        "{answer:?}"
    );
    let answer = ask(9, Request::PreVote(ballot(5, 9))).await;
    assert!(matches!(answer, Answer::Voted { granted: true, .. }), "one that is merely unknown: {answer:?}");
}

/// One that fills the disk up would end this member, after each start anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_for_which_there_is_no_room_is_refused_before_it_comes() {
    let disk = FakeDisk::new();
    let config = Config { initial: Initial::Join, reserve_bytes: 1 << 20, ..config() };
    let identity = Identity::create(&disk, &SystemRandom, MemberId(1), 7, true).unwrap();
    let (shared, random) = (Arc::new(disk.clone()), Arc::new(SystemRandom));
    let node = Node::begin(config, identity, shared, random, Model::default(), Arc::new(NoPeers)).await.unwrap();
    disk.set_capacity(disk.used() + (4 << 20));
    let begin = |bytes| {
        let (vote, membership) = (vote(1, 2, true), Membership::default());
        let begin = SnapshotBegin { transfer: 1, vote, last: None, membership, membership_id: None, bytes };
        Arc::clone(&node).handle(MemberId(2), Request::SnapshotBegin(begin))
    };
    // Thrice as much as comes, beside what is kept.
    assert!(matches!(begin(Some(1100 << 10)).await, Answer::Failed(Failure::NoSpace)));
    assert!(matches!(begin(Some(900 << 10)).await, Answer::Done));
    assert!(matches!(begin(None).await, Answer::Done), "an older release does not say how much comes");
    disk.set_capacity(disk.used());
    let row = Row { table: Table::Revisions, key: "key".into(), value: vec![7; 1000].into() };
    let rows = Request::SnapshotRows(SnapshotRows { transfer: 1, sequence: 0, rows: vec![row] });
    let answer = Arc::clone(&node).handle(MemberId(2), rows).await;
    assert!(matches!(answer, Answer::Failed(Failure::NoSpace)), "{answer:?}");
}
