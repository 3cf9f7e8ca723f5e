//! The Watch service: one stream of requests and answers, any number of watches.
//!
//! A stream has no task of its own: the answers are pulled, by the connection, when the client has room for them. Each pull
//! first sends what the hub has queued, then reads history for watches that are behind, a slice for one and then for the next, then waits for a
//! request, news or a timer. While a client takes nothing, nothing is read for it, not even its requests, and its memory is bounded by its
//! queue.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::FutureExt as _;
use futures::stream::{self, Stream, StreamExt as _};
use keelson_etcd_api::encoded::Event;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_create_request::FilterType;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use keelson_etcd_api::server::WatchResponse;
use keelson_etcd_api::server::watch_server::Watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::errors::Error;
use super::fragments::Fragments;
use super::{Context, GRPC_OVERHEAD_BYTES, LeaderWanted, callers};
use crate::mvcc::KeyRange;
use crate::state::KeySpace;
use crate::watch::queue::{Delivery, Item, Queue};
use crate::watch::{Spec, Start, Token, WatchId, history};

/// Answers to one watch are joined up to about this size while its stream is behind.
const JOINED_BYTES: usize = 1 << 20;
const JOINED_EVENTS: usize = 1000;
/// etcd's reasons for a watch that cannot be.
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

#[derive(Clone, Debug)]
pub(super) struct WatchService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let leader = self.0.require_leader(request.metadata())?;
        let space = self.0.node.state().of(callers::keys(&request)?).clone();
        Ok(Response::new(Box::pin(answers(Arc::clone(&self.0), request.into_inner(), leader, space))))
    }
}

/// What is answered to a stream of requests.
pub(super) fn answers<R>(
    context: Arc<Context>,
    requests: R,
    leader: LeaderWanted,
    space: KeySpace,
) -> impl Stream<Item = Result<WatchResponse, Status>>
where
    R: Stream<Item = Result<pb::WatchRequest, Status>> + Unpin,
{
    // A client that asks no more goes on listening: many that watch one thing only say all at once.
    let watches = Watches::new(context, requests.chain(stream::pending()), leader, space);
    stream::unfold(Some(watches), |watches| async {
        let mut watches = watches?;
        match watches.next().await {
            Ok(answer) => Some((Ok(answer), Some(watches))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

/// One watch of the stream.
#[derive(Debug)]
struct Watcher {
    spec: Arc<Spec>,
    place: Place,
    /// Where it was asked to begin; progress is not told before.
    begins: i64,
    fragment: bool,
    progress: Option<Idle>,
}

#[derive(Debug)]
enum Place {
    Synced(Token),
    /// Everything below is sent.
    Unsynced {
        next: i64,
    },
}

fn count(gauge: &AtomicI64, change: i64) {
    gauge.fetch_add(change, Ordering::Relaxed);
}

/// Whether a watch that asked for progress had events since the last tick; if so, it is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Yes,
    No,
}

/// The watches of one stream.
#[derive(Debug)]
struct Watches<R> {
    context: Arc<Context>,
    requests: R,
    leader: LeaderWanted,
    space: KeySpace,
    queue: Arc<Queue>,
    by_id: BTreeMap<WatchId, Watcher>,
    /// Watches that compaction ended: to etcd their ids are taken until the client cancels them too.
    ended: BTreeSet<WatchId>,
    next_id: i64,
    /// The watch for which history was read last.
    last_read: WatchId,
    /// A request for progress that awaits the watches that are behind.
    progress_wanted: bool,
    tick: Instant,
    fragments: Option<Fragments>,
}

/// What ended a wait.
enum Woken {
    Request(Result<pb::WatchRequest, Status>),
    News,
    Tick,
    NoLeader,
    Stopping,
}

impl<R: Stream<Item = Result<pb::WatchRequest, Status>> + Unpin> Watches<R> {
    fn new(context: Arc<Context>, requests: R, leader: LeaderWanted, space: KeySpace) -> Self {
        count(&context.metrics.watch_streams, 1);
        let tick = Instant::now() + progress_interval(&context);
        Self {
            context,
            requests,
            leader,
            space,
            queue: Arc::default(),
            by_id: BTreeMap::new(),
            ended: BTreeSet::new(),
            next_id: 0,
            last_read: WatchId::NONE,
            progress_wanted: false,
            tick,
            fragments: None,
        }
    }

    /// The next answer, as long as the connection carries the stream.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(answer) = self.queued() {
                return Ok(answer);
            }
            if self.is_behind() {
                // There is work to do: others go first, since it takes its time, and then it is only looked whether a request has come.
                tokio::task::yield_now().await;
                if let Some(request) = self.requests.next().now_or_never().flatten() {
                    self.handle(request.map_err(ended)?);
                }
                if let Some(answer) = self.read_history() {
                    return Ok(answer);
                }
                continue;
            }
            if std::mem::take(&mut self.progress_wanted) {
                self.tell_progress();
                continue;
            }
            match self.wait().await {
                Woken::Request(request) => self.handle(request.map_err(ended)?),
                Woken::News => {}
                Woken::Tick => self.tell_idle_watches(),
                Woken::NoLeader => return Err(Error::NoLeader.into()),
                Woken::Stopping => return Err(Error::Stopped.into()),
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        // In an order, so that a simulation repeats. None can keep the others waiting: what is queued is sent before each wait.
        tokio::select! {
            biased;
            () = self.context.stopping() => Woken::Stopping,
            () = self.leader.lost(&self.context) => Woken::NoLeader,
            () = tokio::time::sleep_until(self.tick) => Woken::Tick,
            Some(request) = self.requests.next() => Woken::Request(request),
            () = self.queue.changed() => Woken::News,
        }
    }

    /// What can be answered without reading.
    fn queued(&mut self) -> Option<WatchResponse> {
        if let Some(fragment) = self.next_fragment() {
            return Some(fragment);
        }
        if let Some(answer) = self.take_queued() {
            return Some(answer);
        }
        // The queue is empty: what was delivered to watches that lag behind since is sent.
        for (id, next) in self.queue.take_lagging() {
            if let Some(watcher) = self.by_id.get_mut(&id) {
                watcher.place = Place::Unsynced { next };
            }
        }
        None
    }

    fn is_behind(&self) -> bool {
        self.by_id.values().any(|watcher| matches!(watcher.place, Place::Unsynced { .. }))
    }

    fn take_queued(&mut self) -> Option<WatchResponse> {
        match self.queue.pop()? {
            Item::Created { id, revision } => Some(WatchResponse { created: true, ..self.answer(id, revision) }),
            Item::Canceled { id, revision } => Some(WatchResponse { canceled: true, ..self.answer(id, revision) }),
            Item::Refused { reason, revision } => Some(WatchResponse {
                created: true,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..self.answer(WatchId::NONE, revision)
            }),
            Item::Progress { id, revision } => Some(self.answer(id, revision)),
            Item::Events { spec, delivery } => Some(self.events_answer(&spec, &delivery)),
        }
    }

    fn answer(&self, id: WatchId, revision: i64) -> WatchResponse {
        WatchResponse { header: self.context.header_at(revision), watch_id: id.0, ..WatchResponse::default() }
    }

    /// Joins what waits for the same watch, so that a stream that fell behind catches up with fewer, larger answers.
    fn events_answer(&mut self, spec: &Spec, first: &Delivery) -> WatchResponse {
        let mut revision = first.changes.revision;
        let mut events = Vec::new();
        let mut bytes = take_events(spec, first, &mut events);
        while bytes < JOINED_BYTES
            && events.len() < JOINED_EVENTS
            && let Some(more) = self.queue.pop_events_of(spec.id)
        {
            revision = more.changes.revision;
            bytes += take_events(spec, &more, &mut events);
        }
        self.finish_events(spec.id, revision, events)
    }

    fn finish_events(&mut self, id: WatchId, revision: i64, events: Vec<Event>) -> WatchResponse {
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.context.metrics.events.fetch_add(count, Ordering::Relaxed);
        let answer = WatchResponse { events, ..self.answer(id, revision) };
        let Some(watcher) = self.by_id.get_mut(&id) else { return answer };
        if let Some(progress) = &mut watcher.progress {
            *progress = Idle::No;
        }
        if !watcher.fragment {
            return answer;
        }
        let limit = self.context.limits.request_bytes + GRPC_OVERHEAD_BYTES;
        self.fragments = Some(Fragments::new(answer, limit));
        // There is at least one.
        self.next_fragment().unwrap_or_default()
    }

    fn next_fragment(&mut self) -> Option<WatchResponse> {
        let fragment = self.fragments.as_mut()?.next();
        if fragment.is_none() {
            self.fragments = None;
        }
        fragment
    }

    /// Reads a slice for a watch that is behind, each in its turn: one that stays there keeps no other from catching up.
    fn read_history(&mut self) -> Option<WatchResponse> {
        let (spec, next) = self.next_behind()?;
        self.last_read = spec.id;
        let (slice, visible) = self.space.read(|mvcc, visible| (history::read(mvcc, &spec, next, visible), visible));
        let slice = match slice {
            Ok(slice) => slice,
            Err(compacted) => return Some(self.compacted(spec.id, compacted.compact_revision)),
        };
        let token = self.space.hub().rejoin(&spec, slice.next, &self.queue);
        if let Some(watcher) = self.by_id.get_mut(&spec.id) {
            // Nothing that the hub queues from here on is sent before what was read.
            watcher.place = token.map_or(Place::Unsynced { next: slice.next }, Place::Synced);
        }
        if slice.events.is_empty() {
            return None;
        }
        let revision = if slice.next > visible { visible } else { slice.next - 1 };
        Some(self.finish_events(spec.id, revision, slice.events))
    }

    fn next_behind(&self) -> Option<(Arc<Spec>, i64)> {
        let behind = |(_, watcher): (&WatchId, &Watcher)| match watcher.place {
            Place::Unsynced { next } => Some((Arc::clone(&watcher.spec), next)),
            Place::Synced(_) => None,
        };
        let others = self.by_id.range((Bound::Excluded(self.last_read), Bound::Unbounded));
        others.chain(self.by_id.range(..=self.last_read)).find_map(behind)
    }

    /// Cancels a watch that wants what compaction has taken. The header has no revision: so does etcd answer.
    fn compacted(&mut self, id: WatchId, compact_revision: i64) -> WatchResponse {
        if let Some(watcher) = self.by_id.remove(&id) {
            self.forget(&watcher);
            self.ended.insert(id);
        }
        WatchResponse { canceled: true, compact_revision, ..self.answer(id, 0) }
    }

    fn handle(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(WatchId(request.watch_id)),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_wanted = true,
            None => {}
        }
    }

    fn create(&mut self, mut request: pb::WatchCreateRequest) {
        if request.key.is_empty() {
            // The smallest key there is.
            request.key = Bytes::from_static(b"\0");
        }
        // The request's fields are slices of the frame it came in, which a watch must not keep for its lifetime.
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let range = KeyRange::new(&copy(&request.key), &copy(&request.range_end));
        let refused = if request.start_revision < 0 {
            Some(COMPACTED)
        } else if range.is_empty() {
            Some(EMPTY_RANGE)
        } else if request.watch_id != 0 && self.is_taken(WatchId(request.watch_id)) {
            Some(DUPLICATE_ID)
        } else {
            None
        };
        let hub = self.space.hub();
        if let Some(reason) = refused {
            self.queue.push(Item::Refused { reason, revision: hub.revision() });
            return;
        }
        let id = if request.watch_id == 0 { self.choose_id() } else { WatchId(request.watch_id) };
        let spec = Arc::new(Spec {
            id,
            range,
            prev_kv: request.prev_kv,
            no_put: request.filters.contains(&i32::from(FilterType::Noput)),
            no_delete: request.filters.contains(&i32::from(FilterType::Nodelete)),
        });
        let hub = self.space.hub();
        let place = match hub.create(&spec, request.start_revision, &self.queue) {
            Start::Synced(token) => Place::Synced(token),
            Start::Unsynced => Place::Unsynced { next: request.start_revision },
        };
        let progress = request.progress_notify.then_some(Idle::Yes);
        let watcher = Watcher { spec, place, begins: request.start_revision, fragment: request.fragment, progress };
        count(&self.context.metrics.watchers, 1);
        self.by_id.insert(id, watcher);
    }

    fn is_taken(&self, id: WatchId) -> bool {
        self.by_id.contains_key(&id) || self.ended.contains(&id)
    }

    fn choose_id(&mut self) -> WatchId {
        while self.is_taken(WatchId(self.next_id)) {
            self.next_id += 1;
        }
        self.next_id += 1;
        WatchId(self.next_id - 1)
    }

    fn cancel(&mut self, id: WatchId) {
        match self.by_id.remove(&id) {
            Some(watcher) => self.forget(&watcher),
            None if self.ended.remove(&id) => {}
            None => return,
        }
        let revision = self.space.hub().revision();
        self.queue.push(Item::Canceled { id, revision });
    }

    /// Answers a request for progress in the name of all watches, of which there must be one.
    fn tell_progress(&self) {
        let Some(begins) = self.by_id.values().map(|watcher| watcher.begins).max() else { return };
        self.space.hub().progress(WatchId::NONE, begins, &self.queue);
    }

    fn tell_idle_watches(&mut self) {
        self.tick = Instant::now() + progress_interval(&self.context);
        let hub = self.space.hub();
        for (id, watcher) in &mut self.by_id {
            if let Some(progress) = &mut watcher.progress {
                if *progress == Idle::Yes && matches!(watcher.place, Place::Synced(_)) {
                    hub.progress(*id, watcher.begins, &self.queue);
                }
                *progress = Idle::Yes;
            }
        }
    }
}

impl<R> Watches<R> {
    fn forget(&self, watcher: &Watcher) {
        if let Place::Synced(token) = watcher.place {
            self.space.hub().remove(&watcher.spec, token);
        }
        self.queue.forget(watcher.spec.id);
        count(&self.context.metrics.watchers, -1);
    }
}

impl<R> Drop for Watches<R> {
    fn drop(&mut self) {
        count(&self.context.metrics.watch_streams, -1);
        for watcher in std::mem::take(&mut self.by_id).into_values() {
            self.forget(&watcher);
        }
    }
}

/// Up to a tenth more than was set, so that streams which began together are not told together.
fn progress_interval(context: &Context) -> Duration {
    let interval = context.limits.watch_progress_interval;
    let share = u32::try_from(context.random.next_u64() % 1024).unwrap_or(0);
    interval + interval / 10 * share / 1024
}

fn take_events(spec: &Spec, delivery: &Delivery, events: &mut Vec<Event>) -> usize {
    let mut bytes = 0;
    for event in delivery.events() {
        let prev_kv = event.prev_kv.clone().filter(|_| spec.prev_kv);
        bytes += event.kv.as_bytes().len() + prev_kv.as_ref().map_or(0, |kv| kv.as_bytes().len());
        events.push(Event { delete: event.delete, kv: event.kv.clone(), prev_kv });
    }
    bytes
}

fn ended(status: Status) -> Status {
    if status.code() == tonic::Code::Cancelled { Error::WatchCanceled.into() } else { status }
}
