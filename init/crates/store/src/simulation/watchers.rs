//! Clients that watch, and what they were told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::StreamExt as _;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use tonic::Status;

use super::cluster::{Cluster, Running};
use super::{below, one_in, pick};
use crate::member::MemberId;

/// How long a healed cluster may take to tell a watch where it is.
const FINAL_PROGRESS: Duration = Duration::from_secs(20);
/// After how long without an answer a client asks where it is.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One stream, its watches, and all that came on it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub member: MemberId,
    pub watches: BTreeMap<i64, pb::WatchCreateRequest>,
    pub answers: Vec<pb::WatchResponse>,
    /// It was there to the end, and must have been told everything.
    pub complete: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    pub sessions: RefCell<Vec<Session>>,
    pub stopping: Cell<bool>,
    /// What everybody must be told of at the end.
    pub last_revision: Cell<i64>,
}

/// How a session ended.
enum End {
    ToldAll,
    /// With the member, or a watch.
    Again,
    /// The client's patience was over.
    Silence,
}

/// What one client watches, and from where it goes on.
#[derive(Clone, Debug)]
struct Wish {
    request: pb::WatchCreateRequest,
    next: i64,
}

const RANGES: [(&str, &str); 5] =
    [("key/", "key0"), ("key/a", ""), ("register/", "register0"), ("\0", "\0"), ("key/b", "key/d")];

fn wish() -> Wish {
    let (key, range_end) = pick(&RANGES);
    let filters = if one_in(4) { vec![i32::try_from(below(2)).unwrap()] } else { Vec::new() };
    let request = pb::WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: one_in(2),
        progress_notify: one_in(2),
        filters,
        ..pb::WatchCreateRequest::default()
    };
    // From now on, or from the beginning.
    Wish { request, next: i64::from(one_in(2)) }
}

fn send(requests: &UnboundedSender<pb::WatchRequest>, union: RequestUnion) {
    // The stream may have ended.
    _ = requests.unbounded_send(pb::WatchRequest { request_union: Some(union) });
}

impl Watchers {
    /// One client: it watches some ranges, and when its stream ends goes on elsewhere from where it was.
    pub(crate) async fn run(self: Rc<Self>, cluster: Rc<Cluster>) -> Result<(), String> {
        let mut wishes: Vec<Wish> = (0..=below(3)).map(|_| wish()).collect();
        loop {
            let stopping = self.stopping.get();
            let candidates: Vec<Running> = cluster.members().iter().filter_map(|slot| slot.running()).collect();
            let usable: Vec<&Running> = candidates.iter().filter(|running| !running.disk.is_cut()).collect();
            if usable.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let running = pick(&usable).clone();
            match self.session(&running, &mut wishes).await {
                End::ToldAll => return Ok(()),
                End::Silence if stopping => {
                    let (member, status) = (running.process.member(), running.node().status());
                    let session = self.sessions.borrow().last().map(|session| format!("{session:?}"));
                    let revision = running.node().state().public().revision();
                    return Err(format!(
                        "a watch on member {member} is not told where it is: {status:?}, revision {revision}, {session:?}"
                    ));
                }
                End::Silence | End::Again => {}
            }
        }
    }

    async fn session(&self, running: &Running, wishes: &mut [Wish]) -> End {
        let (requests, receiver) = unbounded();
        let mut stream = running.services.watch(receiver);
        let number = {
            let mut sessions = self.sessions.borrow_mut();
            sessions.push(Session { member: running.process.member(), ..Session::default() });
            sessions.len() - 1
        };
        let last = self.stopping.get();
        for (id, wish) in wishes.iter_mut().enumerate() {
            let watch_id = i64::try_from(id).unwrap() + 1;
            if last {
                // A watch that begins at the next revision is told nothing of this one, as in etcd.
                wish.next = wish.next.min(running.node().state().public().revision());
            }
            let request = pb::WatchCreateRequest { start_revision: wish.next, watch_id, ..wish.request.clone() };
            self.sessions.borrow_mut()[number].watches.insert(watch_id, request.clone());
            send(&requests, RequestUnion::CreateRequest(request));
            if one_in(3) {
                send(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
        }
        let ends = tokio::time::Instant::now() + Duration::from_millis(200 + below(4000));
        if last {
            send(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        }
        let deadline = if last { tokio::time::Instant::now() + FINAL_PROGRESS } else { ends };
        loop {
            if one_in(6) {
                // A slow one.
                tokio::time::sleep(Duration::from_millis(below(300))).await;
            }
            if one_in(8) {
                send(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
            let next = running.process.scope(stream.next());
            let patience = deadline.min(tokio::time::Instant::now() + ASK_AGAIN);
            let Ok(answer) = tokio::time::timeout_at(patience, next).await else {
                if tokio::time::Instant::now() >= deadline {
                    return End::Silence;
                }
                // A request that comes before the revision at which a watch begins is not answered, as in etcd.
                send(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                continue;
            };
            let answer: Option<Result<pb::WatchResponse, Status>> = answer;
            let Some(Ok(answer)) = answer.filter(|_| !running.disk.is_cut()) else { return End::Again };
            note(&answer, wishes);
            let cancelled = answer.canceled;
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let is_mark = answer.watch_id == -1 && !answer.created && revision >= self.last_revision.get();
            let mut sessions = self.sessions.borrow_mut();
            sessions[number].answers.push(answer);
            if last && is_mark {
                sessions[number].complete = true;
                return End::ToldAll;
            }
            if cancelled {
                return End::Again;
            }
        }
    }
}

/// Notes from where a watch goes on.
fn note(answer: &pb::WatchResponse, wishes: &mut [Wish]) {
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    let which = usize::try_from(answer.watch_id - 1).ok().and_then(|number| wishes.get_mut(number));
    let Some(wish) = which else {
        return;
    };
    if answer.canceled {
        wish.next = answer.compact_revision;
    } else if answer.created {
        if wish.next == 0 {
            wish.next = revision + 1;
        }
    } else if let Some(event) = answer.events.last() {
        wish.next = event.kv.as_ref().map_or(0, |kv| kv.mod_revision) + 1;
    } else {
        wish.next = wish.next.max(revision + 1);
    }
}
