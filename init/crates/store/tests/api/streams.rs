//! A stream of watches on etcd and the same on ours, told the same.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use keelson_etcd_api::mvccpb::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::compare::{Mismatch, same, strip};
use crate::servers::{Clients, DEADLINE, within};

/// The id of answers that are about all watches.
const ALL: i64 = -1;
/// etcd says nothing to a stream that is behind, and looks at those ten times a second.
const PAUSE: Duration = Duration::from_millis(120);

/// Both streams, and the watches that were asked for, by id.
#[derive(Debug)]
pub(crate) struct Streams {
    etcd: Stream,
    ours: Stream,
    watches: BTreeMap<i64, pb::WatchCreateRequest>,
    any: bool,
}

/// What was told since the last time, by watch.
type Told = BTreeMap<i64, Watched>;

#[derive(Debug, Default, PartialEq)]
struct Watched {
    events: Vec<Event>,
    /// Compacted revision, reason, revision of the header.
    canceled: Option<(i64, String, i64)>,
}

impl Streams {
    pub(crate) async fn open(etcd: &Clients, ours: &Clients) -> Self {
        let (etcd, ours) = tokio::join!(Stream::open(etcd), Stream::open(ours));
        Self { etcd, ours, watches: BTreeMap::new(), any: false }
    }

    pub(crate) fn watches(&self) -> usize {
        self.watches.len()
    }

    pub(crate) fn ended(&self) -> bool {
        self.any && self.watches.is_empty()
    }

    /// Both answer the request with the same fields, whether they accept it or not.
    pub(crate) async fn create(&mut self, request: &pb::WatchCreateRequest) -> Result<(), Mismatch> {
        self.any = true;
        let etcd = self.etcd.create(request).await;
        let ours = self.ours.create(request).await;
        same(request, &etcd, &ours)?;
        if !etcd.canceled {
            self.watches.insert(etcd.watch_id, request.clone());
            self.etcd.fragments.insert(etcd.watch_id, request.fragment);
            self.ours.fragments.insert(etcd.watch_id, request.fragment);
        }
        Ok(())
    }

    /// What all watches were told up to `revision`.
    pub(crate) async fn compare(&mut self, revision: i64) -> Result<(), Mismatch> {
        if self.watches.is_empty() || self.watches.values().any(|watch| watch.start_revision > revision) {
            // Progress is not told before each watch has begun.
            return Ok(());
        }
        let (etcd, ours) = tokio::join!(self.etcd.told(revision), self.ours.told(revision));
        same(&self.watches, &etcd, &ours)?;
        for (id, watched) in etcd {
            if watched.canceled.is_some() {
                self.watches.remove(&id);
            }
        }
        Ok(())
    }

    /// Cancels the first watch; both streams have told everything up to `revision`.
    pub(crate) async fn cancel(&mut self, revision: i64) -> Result<(), Mismatch> {
        let all_begun = self.watches.values().all(|watch| watch.start_revision <= revision);
        let Some((&id, _)) = self.watches.first_key_value().filter(|_| all_begun) else { return Ok(()) };
        let (etcd, ours) = (self.etcd.cancel(id).await, self.ours.cancel(id).await);
        same(&("cancel", id), &etcd, &ours)?;
        self.watches.remove(&id);
        Ok(())
    }
}

#[derive(Debug)]
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    /// Open watches, each with whether it asked for fragments.
    fragments: BTreeMap<i64, bool>,
    /// Came before the answer to a request, and is yet to be told.
    early: Vec<pb::WatchResponse>,
    /// The last revision that each watch was told events of, and whether more of it may follow.
    last: BTreeMap<i64, (i64, bool)>,
    progress: i64,
}

impl Stream {
    async fn open(clients: &Clients) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        // etcd sends no header before its first answer, so there must be one: to a watch that is there for a moment.
        let request = pb::WatchCreateRequest { key: "moment".into(), ..Default::default() };
        let create = RequestUnion::CreateRequest(request);
        requests.send(pb::WatchRequest { request_union: Some(create) }).await.unwrap();
        let answers = clients.watch.clone().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let (fragments, last) = (BTreeMap::new(), BTreeMap::new());
        let mut stream = Self { requests, answers, fragments, early: Vec::new(), last, progress: 0 };
        let created = stream.answer().await;
        stream.cancel(created.watch_id).await;
        stream
    }

    async fn ask(&self, union: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    async fn answer(&mut self) -> pb::WatchResponse {
        let answer = within("a watch's answer", self.answers.message()).await.unwrap();
        let mut answer = answer.expect("the stream goes on");
        strip(&mut answer.header);
        answer
    }

    async fn create(&mut self, request: &pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(request.clone())).await;
        loop {
            let answer = self.answer().await;
            if answer.created {
                return answer;
            }
            // The end of a watch that is not there any more may come late, and is not that of the new one with its id.
            if !answer.canceled || self.fragments.contains_key(&answer.watch_id) {
                self.early.push(answer);
            }
        }
    }

    async fn cancel(&mut self, id: i64) -> pb::WatchResponse {
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
        loop {
            let answer = self.answer().await;
            if answer.canceled && answer.watch_id == id {
                self.fragments.remove(&id);
                return answer;
            }
            // Only progress may come in between: everything else was told before.
            assert!(answer.events.is_empty(), "{answer:?}");
            self.early.push(answer);
        }
    }

    /// Reads until the server says that there is no more up to `revision`, or until no watch is left.
    async fn told(&mut self, revision: i64) -> Told {
        let mut told = Told::new();
        for answer in std::mem::take(&mut self.early) {
            self.take(answer, &mut told).await;
        }
        self.progress = 0;
        let began = std::time::Instant::now();
        while !self.fragments.is_empty() && self.progress < revision {
            assert!(began.elapsed() < DEADLINE, "no progress to {revision}: {self:?}");
            self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            let answer = tokio::time::timeout(PAUSE, self.answers.message()).await;
            let Ok(answer) = answer else { continue };
            let mut answer = answer.unwrap().expect("the stream goes on");
            strip(&mut answer.header);
            self.take(answer, &mut told).await;
        }
        told
    }

    async fn take(&mut self, answer: pb::WatchResponse, told: &mut Told) {
        let id = answer.watch_id;
        let header = answer.header.as_ref().unwrap().revision;
        if id == ALL {
            self.progress = self.progress.max(header);
            let behind = self.last.values().any(|(last, _)| *last > header);
            assert!(!behind, "progress at {header} is behind events: {:?}", self.last);
            return;
        }
        if answer.canceled && !self.fragments.contains_key(&id) {
            // The answer to what is asked below.
            return;
        }
        if answer.canceled {
            self.fragments.remove(&id);
            // To etcd such a watch is behind for ever, and its stream is never told of progress again, unless it is canceled too.
            self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
            told.entry(id).or_default().canceled = Some((answer.compact_revision, answer.cancel_reason, header));
            return;
        }
        let last = self.last.entry(id).or_default();
        let Some(first) = answer.events.first().and_then(|event| event.kv.as_ref()) else {
            assert!(header >= last.0, "progress of {id} goes back: {header} after {}", last.0);
            return;
        };
        let fragment = self.fragments.get(&id).copied().unwrap_or(false);
        assert!(first.mod_revision > last.0 || (fragment && last.1), "revision {} comes twice", first.mod_revision);
        assert!(fragment || !answer.fragment, "a fragment that nobody asked for");
        let newest = answer.events.last().and_then(|event| event.kv.as_ref()).unwrap().mod_revision;
        *last = (newest, answer.fragment);
        assert!(header >= newest, "the header is behind the events");
        told.entry(id).or_default().events.extend(answer.events);
    }
}
