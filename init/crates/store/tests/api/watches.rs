//! Watches: order, completeness, history, limits.

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::servers::{Clients, Server, etcd_program, within};

/// A stream of watches.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Stream {
    async fn open(clients: &Clients) -> Self {
        let (requests, receiver) = mpsc::channel(4096);
        let answers = clients.watch.clone().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, union: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    async fn next(&mut self) -> pb::WatchResponse {
        within("a watch's answer", self.answers.message()).await.unwrap().expect("the stream goes on")
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }

    async fn progress(&mut self) {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }
}

fn prefix() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }
}

/// Key and revision of an answer's events.
fn shown(answer: &pb::WatchResponse) -> Vec<(String, i64)> {
    let kv = |event: &keelson_etcd_api::mvccpb::Event| {
        let kv = event.kv.clone().unwrap();
        (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)
    };
    answer.events.iter().map(kv).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gets_history_and_then_what_happens() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    for number in 0..5 {
        clients.put(&format!("k{number}"), "v").await;
    }
    let mut stream = Stream::open(&clients).await;
    let created = stream.create(pb::WatchCreateRequest { start_revision: 3, ..prefix() }).await;
    assert!(created.created && !created.canceled);
    assert_eq!((created.watch_id, created.header.unwrap().revision), (0, 6));
    let past = stream.next().await;
    assert_eq!(shown(&past), [("k1".to_owned(), 3), ("k2".to_owned(), 4), ("k3".to_owned(), 5), ("k4".to_owned(), 6)]);
    clients.put("x", "not watched").await;
    clients.delete("k1").await;
    let news = stream.next().await;
    assert_eq!(shown(&news), [("k1".to_owned(), 8)]);
    assert_eq!(news.events[0].r#type, 1);
    assert_eq!(news.header.unwrap().revision, 8);
}

/// Command lines, and clients whose requests come from a list, say all that they have to say and then listen.
#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_when_all_requests_were_made() {
    let mut servers = vec![Server::keelson(&[]).await];
    if let Some(program) = etcd_program("KEELSON_ETCD") {
        servers.push(Server::etcd(&program).await);
    }
    for server in servers {
        let clients = server.clients();
        clients.put("k1", "v").await;
        let create = |start_revision| {
            let request = pb::WatchCreateRequest { start_revision, ..prefix() };
            pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) }
        };
        let requests = tokio_stream::iter([create(2)]);
        let answers = clients.watch.clone().watch(requests).await.unwrap().into_inner();
        let mut stream = Stream { requests: mpsc::channel(1).0, answers };
        assert!(stream.next().await.created);
        assert_eq!(shown(&stream.next().await), [("k1".to_owned(), 2)]);
        for number in 2..5 {
            let key = format!("k{number}");
            let revision = clients.put(&key, "v").await;
            assert_eq!(shown(&stream.next().await), [(key, revision)]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_comes_behind_all_events_of_the_stream() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let mut stream = Stream::open(&clients).await;
    for start_revision in [0, 1, 0] {
        stream.send(RequestUnion::CreateRequest(pb::WatchCreateRequest { start_revision, ..prefix() })).await;
    }
    let writer = {
        let clients = clients.clone();
        tokio::spawn(async move {
            let mut last = 0;
            for number in 0..400 {
                last = clients.put(&format!("k{}", number % 7), "v").await;
            }
            last
        })
    };
    let mut sent = [0_i64; 3];
    let mut told = 0;
    let mut last = None;
    let mut writer = Some(writer);
    while last.is_none_or(|last| told < last) {
        stream.progress().await;
        if writer.as_ref().is_some_and(tokio::task::JoinHandle::is_finished) {
            last = Some(writer.take().unwrap().await.unwrap());
        }
        let answer = stream.next().await;
        let revision = answer.header.unwrap().revision;
        if answer.watch_id == -1 {
            assert!(answer.events.is_empty());
            assert!(revision >= told);
            told = revision;
        } else {
            for (_, modified) in shown(&answer) {
                let watch = usize::try_from(answer.watch_id).unwrap();
                assert!(modified > sent[watch], "in order");
                assert!(modified > told, "an event of {modified} comes after progress to {told}");
                sent[watch] = modified;
            }
        }
    }
    assert_eq!(sent, [told; 3], "everything was sent before the last progress");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_a_revision_can_have_its_progress() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let mut stream = Stream::open(&clients).await;
    stream.create(prefix()).await;
    for round in 0..200 {
        // Nothing of this reaches the watch, which is told of it all the same.
        let written = clients.put("other", &round.to_string()).await;
        stream.progress().await;
        let answer = stream.next().await;
        assert!(answer.header.unwrap().revision >= written, "progress is behind an acknowledged write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_misses_nothing_and_holds_up_nobody() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let slow_clients = server.clients();
    let mut slow = Stream::open(&slow_clients).await;
    slow.create(pb::WatchCreateRequest { prev_kv: true, ..prefix() }).await;
    let value = "v".repeat(20_000);
    let mut last = 0;
    for number in 0..1500 {
        last = clients.put(&format!("k{}", number % 3), &value).await;
    }
    let metrics = crate::tls::plain_get(server.port, "/metrics").await;
    assert!(metrics.contains("\netcd_debugging_mvcc_slow_watcher_total 1\n"), "{metrics}");
    let mut next = 2;
    while next <= last {
        for (_, revision) in shown(&slow.next().await) {
            assert_eq!(revision, next);
            next += 1;
        }
    }
    clients.put("k", "live again").await;
    assert_eq!(shown(&slow.next().await), [("k".to_owned(), last + 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_compacted_past_is_cancelled_with_the_revision() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    for _ in 0..5 {
        clients.put("k", "v").await;
    }
    clients.compact(4).await;
    let mut stream = Stream::open(&clients).await;
    let created = stream.create(pb::WatchCreateRequest { start_revision: 3, ..prefix() }).await;
    assert!(created.created && !created.canceled);
    let canceled = stream.next().await;
    assert!(canceled.canceled);
    assert_eq!((canceled.watch_id, canceled.compact_revision), (0, 4));
    // The stream goes on.
    let created = stream.create(pb::WatchCreateRequest { start_revision: 4, ..prefix() }).await;
    assert!(created.created && !created.canceled);
    assert_eq!(shown(&stream.next().await).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_previous_pairs_and_ids_are_each_watchs_own() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let mut stream = Stream::open(&clients).await;
    let specs = [
        pb::WatchCreateRequest { filters: vec![0], prev_kv: true, ..prefix() },
        pb::WatchCreateRequest { filters: vec![1], watch_id: 9, ..prefix() },
        pb::WatchCreateRequest { filters: vec![0, 1], ..prefix() },
        pb::WatchCreateRequest { watch_id: 9, ..prefix() },
        pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() },
    ];
    let mut created = Vec::new();
    for spec in specs {
        created.push(stream.create(spec).await);
    }
    let ids: Vec<(i64, bool)> = created.iter().map(|answer| (answer.watch_id, answer.canceled)).collect();
    assert_eq!(ids, [(0, false), (9, false), (1, false), (-1, true), (-1, true)]);
    assert_eq!(created[3].cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!(created[4].cancel_reason, "mvcc: watcher range is empty");

    clients.put("k", "one").await;
    clients.delete("k").await;
    let answers = [stream.next().await, stream.next().await];
    let put = answers.iter().find(|answer| answer.watch_id == 9).unwrap();
    assert_eq!((put.events.len(), put.events[0].r#type), (1, 0));
    assert_eq!(put.events[0].prev_kv, None);
    let delete = answers.iter().find(|answer| answer.watch_id == 0).unwrap();
    assert_eq!((delete.events.len(), delete.events[0].r#type), (1, 1));
    assert_eq!(delete.events[0].prev_kv.as_ref().unwrap().value, "one");

    stream.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 9 })).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.watch_id == 9);
    // No answer to what is not there: the next is that to the progress request.
    stream.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 9 })).await;
    stream.progress().await;
    assert_eq!(stream.next().await.watch_id, -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_comes_whole_unless_fragments_were_asked_for() {
    let server = Server::keelson(&["--max-request-bytes=100000"]).await;
    let clients = server.clients();
    // A piece is as large as what the transport takes: a request, and half a mebibyte.
    for number in 0..250 {
        clients.put(&format!("k{number:03}"), &"v".repeat(10_000)).await;
    }
    let mut stream = Stream::open(&clients).await;
    stream.create(pb::WatchCreateRequest { prev_kv: true, ..prefix() }).await;
    stream.create(pb::WatchCreateRequest { prev_kv: true, fragment: true, ..prefix() }).await;
    let request = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    clients.kv.clone().delete_range(request).await.unwrap();
    let (mut whole, mut pieces) = (0, Vec::new());
    while whole == 0 || pieces.last().is_none_or(|(_, fragment)| *fragment) {
        let answer = stream.next().await;
        if answer.watch_id == 0 {
            whole = answer.events.len();
        } else {
            pieces.push((answer.events.len(), answer.fragment));
        }
    }
    assert_eq!(whole, 250);
    assert!((4..=6).contains(&pieces.len()), "{pieces:?}");
    assert_eq!(pieces.iter().map(|(events, _)| events).sum::<usize>(), 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_watches_that_ask_are_told_of_progress() {
    let server = Server::keelson(&["--watch-progress-notify-interval=200ms"]).await;
    let clients = server.clients();
    let mut stream = Stream::open(&clients).await;
    stream.create(prefix()).await;
    stream.create(pb::WatchCreateRequest { progress_notify: true, ..prefix() }).await;
    let written = clients.put("other", "v").await;
    loop {
        let told = stream.next().await;
        assert_eq!((told.watch_id, told.events.len()), (1, 0), "only the watch that asked");
        if told.header.unwrap().revision == written {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_watches_serves_each() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let mut stream = Stream::open(&clients).await;
    let count = 500;
    for number in 0..count {
        let key = format!("k{number:04}");
        let request = match number % 3 {
            0 => pb::WatchCreateRequest { key: key.into(), ..Default::default() },
            1 => pb::WatchCreateRequest { range_end: format!("{key}~").into(), key: key.into(), ..Default::default() },
            _ => pb::WatchCreateRequest { key: key.into(), range_end: "\0".into(), ..Default::default() },
        };
        assert!(stream.create(request).await.created);
    }
    let key = format!("k{:04}", count - 2);
    clients.put(&key, "v").await;
    // Its own watch, and each that is open at its upper end and begins before it.
    let expected = (0..count - 1).filter(|number| number % 3 == 2 || *number == count - 2).count();
    let mut watches = std::collections::BTreeSet::new();
    while watches.len() < expected {
        let answer = stream.next().await;
        assert_eq!(shown(&answer), [(key.clone(), 2)]);
        assert!(watches.insert(answer.watch_id), "told twice");
    }
    stream.progress().await;
    assert_eq!(stream.next().await.watch_id, -1, "nobody else is told");
}
