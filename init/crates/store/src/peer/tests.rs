//! Messages survive the wire, and a port lets in who it should.

mod mutation;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::links::{Dialer, Links};
use super::wire::{AnswerRecord, RequestRecord};
use super::*;
use crate::command::Command;
use crate::flags::Endpoint;
use crate::log::Payload;
use crate::state::{Hashed, Keys, Rejection, Table};

const DEADLINE: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 256;

fn command(size: usize) -> Encoded {
    let put = pb::PutRequest { key: "key".into(), value: vec![b'x'; size].into(), ..Default::default() };
    Encoded::new(&Command::Put(put)).unwrap()
}

fn membership() -> Membership {
    let member = Member { name: "a".into(), peer_urls: vec!["http://a:1".into()], store_id: 5, ..Member::default() };
    Membership { voters: vec![[MemberId(9)].into()], members: BTreeMap::from([(MemberId(9), member)]) }
}

fn requests() -> Vec<Request> {
    let vote = Vote { term: 3, member: MemberId(u64::MAX), committed: true };
    let id = |index| LogId { term: 3, index };
    let ballot = Ballot { vote, last: Some(id(9)), leadership_transfer: true };
    let row = Row { table: Table::Leases, key: "k".into(), value: Bytes::new() };
    let entries = vec![
        Entry { id: id(0), payload: Payload::Blank },
        Entry { id: id(1), payload: Payload::Command(command(100)) },
        Entry { id: id(2), payload: Payload::Membership(Arc::new(membership())) },
    ];
    let urls = vec!["http://a:1".to_owned()];
    let changes = [
        Change::Add { peer_urls: urls.clone(), learner: true, id: MemberId(1), name: "m".into() },
        Change::Remove { id: MemberId(1), how: Removal::Safe },
        Change::Remove { id: MemberId(1), how: Removal::Try },
        Change::Remove { id: MemberId(1), how: Removal::Force },
        Change::Promote(MemberId(1)),
        Change::Update { id: MemberId(1), peer_urls: urls.clone() },
        Change::Publish { id: MemberId(1), name: "n".into(), client_urls: urls, store_id: 3, level: 2 },
    ];
    let begin = SnapshotBegin {
        transfer: 4,
        vote,
        last: Some(id(7)),
        membership: membership(),
        membership_id: Some(id(2)),
        bytes: Some(0),
    };
    let mut requests = vec![
        Request::Append(Append { vote, previous: None, committed: Some(id(1)), entries }),
        Request::Append(Append { vote, previous: Some(id(0)), committed: None, entries: Vec::new() }),
        Request::Vote(ballot),
        Request::PreVote(Ballot { last: None, leadership_transfer: false, ..ballot }),
        Request::Transfer(Transfer { from: vote, to: MemberId(8), last: None }),
        Request::SnapshotBegin(SnapshotBegin { bytes: None, ..begin.clone() }),
        Request::SnapshotBegin(begin),
        Request::SnapshotRows(SnapshotRows { transfer: 4, sequence: 1, rows: vec![row] }),
        Request::SnapshotEnd(4),
        Request::Propose(command(10)),
        Request::ReadIndex,
        Request::MoveLeader(MemberId(3)),
        Request::Renew(-5),
        Request::TimeToLive { id: 7, keys: true },
        Request::ClusterInfo,
        Request::Hash(Keys::Public, -8),
        Request::Hash(Keys::Cluster, 9),
    ];
    requests.extend(changes.map(Request::Change));
    requests
}

fn answers() -> Vec<Answer> {
    let vote = Vote { term: 3, member: MemberId(1), committed: false };
    let at = LogId { term: 1, index: 2 };
    let put = keelson_etcd_api::server::PutResponse::default();
    let info =
        ClusterInfo { cluster_id: 1, membership: membership(), membership_id: Some(at), leader: Some(MemberId(4)) };
    let left = TimeToLive { remaining_seconds: -1, granted_seconds: 5, keys: vec!["a".into()] };
    vec![
        Answer::Appended,
        Answer::Conflict,
        Answer::HigherVote(vote),
        Answer::Voted { vote, granted: true, last: Some(at) },
        Answer::Done,
        Answer::Installing,
        Answer::Installed { vote },
        Answer::Proposed { at, response: Response::Put(put) },
        Answer::Proposed { at, response: Response::Rejected(Rejection::LeaseExists) },
        Answer::ReadIndex(at),
        Answer::Cluster(info),
        Answer::Renewed { ttl: Some(0) },
        Answer::Renewed { ttl: None },
        Answer::TimeToLive(None),
        Answer::TimeToLive(Some(left)),
        Answer::Hashed(None),
        Answer::Hashed(Some(Hashed { revision: 7, compact_revision: -1, hash: u32::MAX })),
        Answer::Failed(Failure::NotLeader(Some(MemberId(2)))),
        Answer::Failed(Failure::NoSpace),
        Answer::ChangeFailed(ChangeError::LearnerNotReady),
    ]
}

#[test]
fn messages_survive_the_wire() {
    for request in requests() {
        let expected = format!("{request:?}");
        let bytes = RequestRecord::from(request).encode_to_vec();
        let read = RequestRecord::decode(Bytes::from(bytes)).unwrap().request().unwrap();
        assert_eq!(format!("{read:?}"), expected);
    }
    for answer in answers() {
        let expected = format!("{answer:?}");
        let bytes = AnswerRecord::from(answer).encode_to_vec();
        let read = AnswerRecord::decode(Bytes::from(bytes)).unwrap().answer().unwrap();
        assert_eq!(format!("{read:?}"), expected);
    }
}

#[test]
fn every_reason_has_a_number_of_its_own() {
    for refusal in
        [Refusal::Cluster, Refusal::Target, Refusal::Reborn, Refusal::Certificate, Refusal::Version, Refusal::Lane]
    {
        assert_eq!(Refusal::from_code(refusal.code()), refusal);
    }
    for failure in [
        Failure::NotLeader(None),
        Failure::Timeout,
        Failure::NoSpace,
        Failure::TooLarge,
        Failure::TooManyRequests,
        Failure::Stopped,
        Failure::NotUnderstood,
        Failure::BadTransferee,
        Failure::TransferTimeout,
        Failure::Snapshot,
    ] {
        let (code, member) = failure.code();
        assert_eq!(Failure::from_code(code, member), failure);
    }
    assert_eq!(Failure::from_code(999, 0), Failure::Timeout, "an unknown failure may have done something");
}

#[test]
fn mutilated_messages_are_errors() {
    for request in requests() {
        let bytes = RequestRecord::from(request).encode_to_vec();
        for position in 0..bytes.len() {
            for flip in [1, 0x80] {
                let mut bad = bytes.clone();
                bad[position] ^= flip;
                // Any answer will do, but no panic.
                _ = RequestRecord::decode(Bytes::from(bad)).map(RequestRecord::request);
            }
            _ = RequestRecord::decode(Bytes::from(bytes[..position].to_vec())).map(RequestRecord::request);
        }
    }
}

/// Answers everything, and notes what it was asked.
#[derive(Debug)]
struct Echo {
    local: Local,
    handled: Mutex<Vec<MemberId>>,
    held: AtomicUsize,
    /// What is found each time that a stranger is looked at.
    of_strangers: Mutex<VecDeque<Result<Standing, Refusal>>>,
    hung_up: tokio::sync::mpsc::UnboundedSender<MemberId>,
}

impl Handler for Echo {
    fn local(&self) -> Local {
        self.local
    }

    fn admit(&self, hello: &Hello, _: Option<&CertificateDer<'_>>) -> Result<Standing, Refusal> {
        match hello.from.store_id {
            666 => Err(Refusal::Reborn),
            STRANGE => self.of_strangers.lock().unwrap().pop_front().unwrap_or(Ok(Standing::Member)),
            _ => Ok(Standing::Member),
        }
    }

    fn handle(self: Arc<Self>, from: MemberId, request: Request) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            self.handled.lock().unwrap().push(from);
            match request {
                Request::Renew(ttl) => Answer::Renewed { ttl: Some(ttl) },
                // Never answered.
                Request::MoveLeader(_) => {
                    self.held.fetch_add(1, Ordering::SeqCst);
                    std::future::pending().await
                }
                _ => Answer::Done,
            }
        })
    }

    fn hung_up(&self, from: MemberId) {
        // Few tests listen.
        _ = self.hung_up.send(from);
    }
}

struct Port {
    url: String,
    number: u16,
    echo: Arc<Echo>,
    hang_ups: tokio::sync::mpsc::UnboundedReceiver<MemberId>,
    serving: tokio::task::JoinHandle<()>,
}

const LOCAL: Local = Local { cluster_id: 1, member_id: MemberId(10), store_id: 100 };
const OTHER: Local = Local { cluster_id: 1, member_id: MemberId(20), store_id: 200 };
/// The data directory of one that is not known at first.
const STRANGE: u64 = 777;

async fn serve() -> Port {
    serve_as(LOCAL).await
}

async fn serve_as(local: Local) -> Port {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let server = server::Server::bind(&[Endpoint::parse(&url).unwrap()], None, CONNECTIONS).await.unwrap();
    let (hung_up, hang_ups) = tokio::sync::mpsc::unbounded_channel();
    let held = AtomicUsize::new(0);
    let echo = Arc::new(Echo { local, handled: Mutex::default(), held, of_strangers: Mutex::default(), hung_up });
    let handler: Arc<dyn Handler> = Arc::<Echo>::clone(&echo);
    Port { url, number: port, echo, hang_ups, serving: tokio::spawn(server.serve(handler, 1 << 20)) }
}

fn links(local: Local, target: MemberId, url: &str) -> Links {
    let links = Links::new(local, Arc::new(Dialer::new(None).unwrap()), Duration::from_millis(200));
    links.set_members(vec![(target, Member { peer_urls: vec![url.to_owned()], ..Member::default() })]);
    links
}

#[tokio::test]
async fn calls_share_a_connection_and_overtake_each_other_where_they_may() {
    let port = serve().await;
    let links = links(OTHER, LOCAL.member_id, &port.url);
    let stuck = links.call(LOCAL.member_id, Lane::Forward, Request::MoveLeader(MemberId(1)), DEADLINE);
    let stuck = tokio::time::timeout(Duration::from_millis(300), stuck);
    let quick = async {
        for number in 0..100 {
            let answer = links.call(LOCAL.member_id, Lane::Forward, Request::Renew(number), DEADLINE).await;
            assert!(matches!(answer, Ok(Answer::Renewed { ttl: Some(ttl) }) if ttl == number));
        }
    };
    let (stuck, ()) = tokio::join!(stuck, quick);
    assert!(stuck.is_err());
    assert!(port.echo.handled.lock().unwrap().iter().all(|from| *from == OTHER.member_id));
}

#[tokio::test]
async fn what_is_exchanged_with_a_member_is_counted() {
    use std::sync::atomic::Ordering::Relaxed;
    let port = serve().await;
    let links = links(OTHER, LOCAL.member_id, &port.url);
    let counters = links.traffic().unwrap().of(LOCAL.member_id).unwrap();
    for number in 0..10 {
        links.call(LOCAL.member_id, Lane::Forward, Request::Renew(number), DEADLINE).await.unwrap();
    }
    assert_eq!((counters.connections.load(Relaxed), counters.failures.load(Relaxed)), (1, 0));
    assert!(counters.sent_bytes.load(Relaxed) > 160 && counters.received_bytes.load(Relaxed) > 160);
    assert_eq!(counters.round_trips.snapshot().count, 0, "these were no heartbeats");

    port.serving.abort();
    _ = port.serving.await;
    let heartbeat = Append {
        vote: Vote { term: 1, member: OTHER.member_id, committed: true },
        previous: None,
        committed: None,
        entries: Vec::new(),
    };
    let heartbeat = || links.call(LOCAL.member_id, Lane::Control, Request::Append(heartbeat.clone()), DEADLINE);
    assert!(heartbeat().await.is_err());
    // Given up by who asked, as consensus does.
    drop(tokio::time::timeout(Duration::ZERO, heartbeat()).await);
    assert!(counters.heartbeat_failures.load(Relaxed) >= 1);
    assert_eq!(counters.heartbeat_failures.load(Relaxed), counters.failures.load(Relaxed));

    // Those that are no members any more are forgotten.
    links.set_members(Vec::new());
    assert!(links.traffic().unwrap().all().is_empty());
    assert_eq!((counters.connections.load(Relaxed), counters.disconnects.load(Relaxed)), (0, 1));
}

#[tokio::test]
async fn who_is_not_meant_or_not_who_it_was_is_refused() {
    let port = serve().await;
    for (local, target, expected) in [
        (Local { cluster_id: 2, ..OTHER }, LOCAL.member_id, Refusal::Cluster),
        (OTHER, MemberId(11), Refusal::Target),
        (Local { store_id: 666, ..OTHER }, LOCAL.member_id, Refusal::Reborn),
    ] {
        let links = links(local, target, &port.url);
        let answer = links.call(target, Lane::Log, Request::ReadIndex, DEADLINE).await;
        assert!(matches!(answer, Err(CallError::Refused { refusal, .. }) if refusal == expected), "{answer:?}");
    }
    assert!(port.echo.handled.lock().unwrap().is_empty());
}

/// Whoever was let in as a stranger has proven nothing yet: it has to once it is known, and once is enough.
#[tokio::test]
async fn a_stranger_is_looked_at_again_until_it_is_known() {
    let port = serve().await;
    let known = |local| links(local, LOCAL.member_id, &port.url);
    let found = |results: &[Result<Standing, Refusal>]| {
        *port.echo.of_strangers.lock().unwrap() = results.iter().copied().collect();
    };
    found(&[Ok(Standing::Stranger), Ok(Standing::Stranger), Ok(Standing::Member), Err(Refusal::Certificate)]);
    let links = known(Local { store_id: STRANGE, ..OTHER });
    for number in 0..4 {
        links.call(LOCAL.member_id, Lane::Forward, Request::Renew(number), DEADLINE).await.unwrap();
    }
    assert_eq!(port.echo.of_strangers.lock().unwrap().len(), 1, "a member is not asked any more");

    found(&[Ok(Standing::Stranger), Err(Refusal::Certificate)]);
    let links = known(Local { store_id: STRANGE, ..OTHER });
    let handled = port.echo.handled.lock().unwrap().len();
    let refused = links.call(LOCAL.member_id, Lane::Forward, Request::Renew(1), DEADLINE).await;
    assert!(matches!(refused, Err(CallError::Lost { .. })), "{refused:?}");
    assert_eq!(port.echo.handled.lock().unwrap().len(), handled, "it was not carried out");
}

/// Before the list of members names its data directory, too.
#[tokio::test]
async fn a_member_that_comes_back_with_another_data_directory_is_not_spoken_to() {
    let (before, after) = (serve().await, serve_as(Local { store_id: 101, ..LOCAL }).await);
    let links = links(OTHER, LOCAL.member_id, &before.url);
    assert_eq!(links.store_of(LOCAL.member_id), None);
    links.call(LOCAL.member_id, Lane::Log, Request::ReadIndex, DEADLINE).await.unwrap();
    assert_eq!(links.store_of(LOCAL.member_id), Some(100));
    links.set_members(vec![(LOCAL.member_id, Member { peer_urls: vec![after.url.clone()], ..Member::default() })]);
    let answer = links.call(LOCAL.member_id, Lane::Log, Request::ReadIndex, DEADLINE).await;
    assert!(matches!(answer, Err(CallError::Refused { refusal: Refusal::Reborn, .. })), "{answer:?}");
    assert_eq!(links.store_of(LOCAL.member_id), Some(100));
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_request_that_was_never_sent() {
    let port = serve().await;
    let links = links(OTHER, LOCAL.member_id, &port.url);
    let short = Duration::from_millis(300);
    let lost = links.call(LOCAL.member_id, Lane::Forward, Request::MoveLeader(MemberId(1)), short).await;
    assert!(matches!(lost, Err(CallError::Lost { .. })), "{lost:?}");
    let unknown = links.call(MemberId(77), Lane::Forward, Request::ReadIndex, short).await;
    assert!(matches!(unknown, Err(CallError::NotSent { .. })), "{unknown:?}");
    port.serving.abort();
    assert!(port.serving.await.unwrap_err().is_cancelled());
    tokio::time::timeout(DEADLINE, async {
        // What is left of the old connection may take a call down with it; then nobody listens.
        loop {
            let answer = links.call(LOCAL.member_id, Lane::Forward, Request::ReadIndex, short).await;
            if matches!(answer, Err(CallError::NotSent { .. })) {
                return;
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn random_bytes_and_silence_hold_up_nobody() {
    let port = serve().await;
    let mut idle = Vec::new();
    for number in 0..100_u64 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port.number)).await.unwrap();
        if number % 2 == 0 {
            let bytes: Vec<u8> = (0..64).map(|byte| u8::try_from((number * 31 + byte * 7) % 256).unwrap()).collect();
            stream.write_all(&bytes).await.unwrap();
            let mut rest = Vec::new();
            // Closed without a word, or reset.
            _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.is_empty());
        } else {
            idle.push(stream);
        }
    }
    let links = links(OTHER, LOCAL.member_id, &port.url);
    let answer = links.call(LOCAL.member_id, Lane::Control, Request::Renew(1), DEADLINE).await;
    assert!(matches!(answer, Ok(Answer::Renewed { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_member_that_hangs_up_is_told_of_once_and_by_its_control_lane() {
    let mut port = serve().await;
    for lane in [Lane::Log, Lane::Forward, Lane::Control] {
        let links = links(OTHER, LOCAL.member_id, &port.url);
        links.call(LOCAL.member_id, lane, Request::Renew(1), DEADLINE).await.unwrap();
        assert!(port.hang_ups.try_recv().is_err(), "{lane:?}: it is there");
        drop(links);
    }
    let told = tokio::time::timeout(DEADLINE, port.hang_ups.recv()).await.unwrap();
    assert_eq!(told, Some(OTHER.member_id));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(port.hang_ups.try_recv().is_err(), "the other lanes' ends mean nothing");
}

#[tokio::test]
async fn a_member_is_gone_if_its_machine_refuses_connections_and_not_if_it_is_silent() {
    let limit = Duration::from_millis(300);
    let port = serve().await;
    let known = links(OTHER, LOCAL.member_id, &port.url);
    assert!(!known.is_gone(LOCAL.member_id, DEADLINE).await, "it serves");
    assert!(!known.is_gone(MemberId(77), limit).await, "nobody knows where that would be");
    port.serving.abort();
    assert!(port.serving.await.unwrap_err().is_cancelled());
    let closed = async { while !known.is_gone(LOCAL.member_id, DEADLINE).await {} };
    tokio::time::timeout(DEADLINE, closed).await.unwrap();

    // As a stopped process: its machine takes connections on its behalf.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    let stopped = links(OTHER, LOCAL.member_id, &format!("http://{address}"));
    assert!(!stopped.is_gone(LOCAL.member_id, limit).await);
    // Of two addresses both must refuse.
    let urls = vec![port.url.clone(), format!("http://{address}")];
    stopped.set_members(vec![(LOCAL.member_id, Member { peer_urls: urls, ..Member::default() })]);
    assert!(!stopped.is_gone(LOCAL.member_id, limit).await);
    drop(deaf);
    assert!(stopped.is_gone(LOCAL.member_id, limit).await);
}
