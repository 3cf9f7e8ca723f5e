//! The connections to all other members.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::Instant;

use super::hints::Hints;
use super::link::{self, ConnectError, Link};
use super::traffic::{Attempt, Counters, Traffic};
use super::{Answer, BoxFuture, CallError, ClusterInfo, Hello, Lane, Local, Refusal, Request, Transport};
use crate::flags::TlsFiles;
use crate::member::{Member, MemberId};
use crate::tls::{Reloading, TlsError};

/// TCP and TLS handshakes and the hello; less if the call has less time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Refusals are told once, and again after this time.
const TELL_INTERVAL: Duration = Duration::from_secs(30);

/// What connections to members need besides the member.
#[derive(Debug)]
pub struct Dialer {
    tls: Option<Reloading<ClientConfig>>,
    /// Whether certificates name members; hosts otherwise.
    by_name: bool,
    /// Where members may be that are not where the membership has them.
    hints: Option<Hints>,
}

impl Dialer {
    pub fn new(tls: Option<&TlsFiles>) -> Result<Self, TlsError> {
        // Without an authority no member can be verified. One that runs alone may still have a certificate to listen with.
        let tls = tls.filter(|files| files.trusted_ca.is_some()).map(Reloading::client).transpose()?;
        Ok(Self { tls, by_name: false, hints: None })
    }

    /// Expects certificates to name members.
    #[must_use]
    pub fn by_name(self, by_name: bool) -> Self {
        Self { by_name, ..self }
    }

    /// Tries members where this file says, too. Their certificates have to name them.
    #[must_use]
    pub fn with_hints(self, file: Option<PathBuf>) -> Self {
        Self { hints: file.map(Hints::new), ..self }
    }

    /// Where to try a member.
    fn urls(&self, name: &str, known: &[String]) -> Vec<String> {
        match self.hints.as_ref().filter(|_| self.by_name && !name.is_empty()) {
            Some(hints) => hints.urls(name, known),
            None => known.to_vec(),
        }
    }

    async fn connect(
        &self,
        name: &str,
        urls: &[String],
        hello: &Hello,
        timeout: Duration,
        counters: &Arc<Counters>,
    ) -> Result<Link, CallError> {
        let urls = self.urls(name, urls);
        let name = Some(name).filter(|name| self.by_name && !name.is_empty());
        connect(self.tls.as_ref(), name, &urls, hello, timeout, counters).await
    }

    /// What the member at these URLs says of its cluster, asked by one that may be no member yet.
    pub async fn cluster_info(
        &self,
        name: &str,
        urls: &[String],
        from: Local,
        timeout: Duration,
    ) -> Result<ClusterInfo, CallError> {
        let hello = Hello { from, target: MemberId(0), lane: Lane::Join };
        let link = self.connect(name, urls, &hello, timeout, &Arc::default()).await?;
        match link.call(Request::ClusterInfo, timeout).await? {
            Answer::Cluster(info) => Ok(info),
            _ => Err(CallError::Lost { target: MemberId(0), reason: "it answered something else" }),
        }
    }
}

#[derive(Debug)]
pub struct Links {
    local: Local,
    dialer: Arc<Dialer>,
    members: RwLock<BTreeMap<MemberId, Member>>,
    lanes: Mutex<BTreeMap<(MemberId, Lane), Arc<Slot>>>,
    /// Members' data directories, as they were first.
    stores: Mutex<BTreeMap<MemberId, u64>>,
    traffic: Traffic,
    /// A connection on which nothing has come in for so long when a call times out is given up.
    silence: Duration,
}

/// The place of a connection. Whoever needs it first makes it, the others wait.
#[derive(Debug, Default)]
struct Slot {
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    told: Mutex<Option<Instant>>,
}

impl Links {
    pub fn new(local: Local, dialer: Arc<Dialer>, silence: Duration) -> Self {
        Self {
            local,
            dialer,
            members: RwLock::default(),
            lanes: Mutex::default(),
            stores: Mutex::default(),
            traffic: Traffic::default(),
            silence,
        }
    }

    fn slot(&self, target: MemberId, lane: Lane) -> Arc<Slot> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry((target, lane)).or_default())
    }

    fn member(&self, target: MemberId) -> Option<Member> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).get(&target).cloned()
    }

    async fn link(&self, slot: &Slot, target: MemberId, lane: Lane, timeout: Duration) -> Result<Arc<Link>, CallError> {
        let mut link = slot.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.is_broken()) {
            return Ok(Arc::clone(link));
        }
        *link = None;
        let Some(member) = self.member(target) else {
            return Err(CallError::NotSent { target, reason: "it is no member".to_owned() });
        };
        let hello = Hello { from: self.local, target, lane };
        let counters = self.traffic.of(target).unwrap_or_default();
        match self.dialer.connect(&member.name, &member.peer_urls, &hello, timeout, &counters).await {
            Ok(made) => {
                let first =
                    *self.stores.lock().unwrap_or_else(PoisonError::into_inner).entry(target).or_insert(made.store);
                if first != made.store {
                    // It lost its disk, and with it what it promised.
                    return Err(CallError::Refused { target, refusal: Refusal::Reborn });
                }
                let made = Arc::new(made);
                *link = Some(Arc::clone(&made));
                Ok(made)
            }
            Err(error) => {
                slot.tell(&error);
                Err(error)
            }
        }
    }

    async fn try_call(
        &self,
        target: MemberId,
        lane: Lane,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let deadline = Instant::now() + timeout;
        let slot = self.slot(target, lane);
        let connect = timeout.min(CONNECT_TIMEOUT);
        let link = match tokio::time::timeout_at(deadline, self.link(&slot, target, lane, connect)).await {
            Ok(link) => link?,
            Err(_) => return Err(CallError::NotSent { target, reason: "timed out".to_owned() }),
        };
        let answer = link.call(request, deadline.saturating_duration_since(Instant::now())).await;
        if matches!(answer, Err(CallError::Lost { .. } | CallError::NotSent { .. })) {
            link.suspect(self.silence);
        }
        answer
    }
}

impl Slot {
    fn tell(&self, error: &CallError) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            *told = Some(Instant::now());
            tracing::warn!(%error, "no connection to another member");
        }
    }
}

async fn connect(
    tls: Option<&Reloading<ClientConfig>>,
    name: Option<&str>,
    urls: &[String],
    hello: &Hello,
    timeout: Duration,
    counters: &Arc<Counters>,
) -> Result<Link, CallError> {
    let target = hello.target;
    let deadline = Instant::now() + timeout;
    let mut reason = "it has no peer URL".to_owned();
    for (url, left) in urls.iter().zip((1..=urls.len()).rev()) {
        // Where nothing answers takes no more than its part.
        let part = deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match tokio::time::timeout(part, Link::connect(url, name, hello, tls, counters)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(ConnectError::Refused(refusal))) => return Err(CallError::Refused { target, refusal }),
            Ok(Err(ConnectError::Io(error))) => reason = format!("{url}: {error}"),
            Err(_) => reason = format!("{url}: timed out"),
        }
    }
    Err(CallError::NotSent { target, reason })
}

impl Transport for Links {
    fn call(
        &self,
        target: MemberId,
        lane: Lane,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move {
            let attempt = Attempt::new(self.traffic.of(target), lane, &request);
            let answer = self.try_call(target, lane, request, timeout).await;
            if answer.is_ok() {
                attempt.answered();
            } else {
                attempt.failed();
            }
            answer
        })
    }

    fn is_gone(&self, member: MemberId, timeout: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let Some(member) = self.member(member) else { return false };
            let urls = self.dialer.urls(&member.name, &member.peer_urls);
            tokio::time::timeout(timeout, link::is_refused(&urls)).await.unwrap_or(false)
        })
    }

    fn store_of(&self, member: MemberId) -> Option<u64> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).get(&member).copied()
    }

    fn traffic(&self) -> Option<&Traffic> {
        Some(&self.traffic)
    }

    fn set_members(&self, members: Vec<(MemberId, Member)>) {
        let members: BTreeMap<_, _> = members.into_iter().collect();
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| members.contains_key(id));
        self.traffic.set_members(members.keys().copied().filter(|id| *id != self.local.member_id));
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.members.write().unwrap_or_else(PoisonError::into_inner);
        // A member that moved is connected to anew, one that left no more.
        let same = |id: &MemberId| {
            members.get(id).map(|member| &member.peer_urls) == known.get(id).map(|member| &member.peer_urls)
        };
        lanes.retain(|(id, _), _| same(id));
        *known = members;
    }
}
