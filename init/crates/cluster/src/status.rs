//! What this node says of itself: conditions in the order in which one depends on the other, each with its reason.
//!
//! Whoever knows something tells the board; the API reads it. A condition that nobody has spoken about yet is unknown,
//! which is a different thing from false.

use std::collections::BTreeMap;
use std::sync::Mutex;

use keelson_api::{Condition, ConditionStatus, Phase};
use keelson_config::Role;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// In the order of dependence; the first that is not true is the reason for those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionKind {
    /// The node has a cluster, and the identity that goes with it.
    Member,
    NetworkUp,
    StoreServing,
    ContainerRuntimeReady,
    /// The built-in images are in containerd's store.
    ImagesImported,
    /// The services were handed to PID 1.
    ServicesApplied,
    ApiServerReady,
    AccessApplied,
    NodeRegistered,
    PodNetworkConfigured,
    NodeReady,
    DnsApplied,
}

impl ConditionKind {
    pub const ALL: [Self; 12] = [
        Self::Member,
        Self::NetworkUp,
        Self::StoreServing,
        Self::ContainerRuntimeReady,
        Self::ImagesImported,
        Self::ServicesApplied,
        Self::ApiServerReady,
        Self::AccessApplied,
        Self::NodeRegistered,
        Self::PodNetworkConfigured,
        Self::NodeReady,
        Self::DnsApplied,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::NetworkUp => "NetworkUp",
            Self::StoreServing => "StoreServing",
            Self::ContainerRuntimeReady => "ContainerRuntimeReady",
            Self::ImagesImported => "ImagesImported",
            Self::ServicesApplied => "ServicesApplied",
            Self::ApiServerReady => "ApiServerReady",
            Self::AccessApplied => "AccessApplied",
            Self::NodeRegistered => "NodeRegistered",
            Self::PodNetworkConfigured => "PodNetworkConfigured",
            Self::NodeReady => "NodeReady",
            Self::DnsApplied => "DnsApplied",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    holds: bool,
    reason: String,
    since: OffsetDateTime,
}

impl ConditionKind {
    /// Those that a node of this role has, in their order.
    pub fn of(role: Role) -> &'static [Self] {
        match role {
            Role::ControlPlane => &Self::ALL,
            Role::Worker => &Self::WORKER,
        }
    }

    /// A worker has no store, no API server of its own, and deploys nothing.
    const WORKER: [Self; 9] = [
        Self::NetworkUp,
        Self::Member,
        Self::ContainerRuntimeReady,
        Self::ImagesImported,
        Self::ServicesApplied,
        Self::ApiServerReady,
        Self::NodeRegistered,
        Self::PodNetworkConfigured,
        Self::NodeReady,
    ];
}

#[derive(Debug)]
pub struct StatusBoard {
    kinds: &'static [ConditionKind],
    entries: Mutex<Board>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Board {
    entries: BTreeMap<ConditionKind, Entry>,
    was_ready: bool,
    shutting_down: bool,
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self::of(Role::ControlPlane)
    }
}

impl StatusBoard {
    pub fn of(role: Role) -> Self {
        Self { kinds: ConditionKind::of(role), entries: Mutex::default(), changed: watch::Sender::new(0) }
    }

    pub fn holds(&self, kind: ConditionKind, reason: impl Into<String>) {
        self.set(kind, true, reason.into());
    }

    /// Says whether that is news.
    pub fn fails(&self, kind: ConditionKind, reason: impl Into<String>) -> bool {
        self.set(kind, false, reason.into())
    }

    pub fn shutting_down(&self) {
        self.lock().shutting_down = true;
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Wakes whenever a condition changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn is(&self, kind: ConditionKind) -> bool {
        self.lock().entries.get(&kind).is_some_and(|entry| entry.holds)
    }

    /// Why something does not hold and since when, if somebody said that it does not.
    pub fn failure(&self, kind: ConditionKind) -> Option<(String, OffsetDateTime)> {
        self.lock().entries.get(&kind).filter(|entry| !entry.holds).map(|entry| (entry.reason.clone(), entry.since))
    }

    pub fn ready(&self) -> bool {
        self.lock().ready(self.kinds)
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase(self.kinds)
    }

    pub fn conditions(&self) -> Vec<Condition> {
        let board = self.lock();
        self.kinds
            .iter()
            .map(|kind| match board.entries.get(kind) {
                Some(entry) => Condition {
                    kind: kind.name().to_owned(),
                    status: if entry.holds { ConditionStatus::True } else { ConditionStatus::False },
                    reason: entry.reason.clone(),
                    since: entry.since.format(&Rfc3339).ok(),
                },
                None => Condition {
                    kind: kind.name().to_owned(),
                    status: ConditionStatus::Unknown,
                    reason: "not reached yet".to_owned(),
                    since: None,
                },
            })
            .collect()
    }

    fn set(&self, kind: ConditionKind, holds: bool, reason: String) -> bool {
        let mut board = self.lock();
        let previous = board.entries.get(&kind);
        if previous.is_some_and(|entry| entry.holds == holds && entry.reason == reason) {
            return false;
        }
        let since = match previous {
            Some(entry) if entry.holds == holds => entry.since,
            _ => OffsetDateTime::now_utc(),
        };
        board.entries.insert(kind, Entry { holds, reason, since });
        board.was_ready |= board.ready(self.kinds);
        drop(board);
        self.changed.send_modify(|generation| *generation += 1);
        true
    }

    /// A panic while the lock was held leaves a board that is still whole: each change is one insertion.
    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Board {
    fn ready(&self, kinds: &[ConditionKind]) -> bool {
        kinds.iter().all(|kind| self.entries.get(kind).is_some_and(|entry| entry.holds))
    }

    fn phase(&self, kinds: &[ConditionKind]) -> Phase {
        let holds = |kind| self.entries.get(&kind).is_some_and(|entry| entry.holds);
        if self.shutting_down {
            Phase::ShuttingDown
        } else if self.ready(kinds) {
            Phase::Ready
        } else if self.was_ready {
            Phase::Degraded
        } else if !holds(ConditionKind::Member) {
            Phase::Starting
        } else if kinds.contains(&ConditionKind::StoreServing) && !holds(ConditionKind::StoreServing) {
            Phase::StartingStore
        } else {
            Phase::StartingKubernetes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_spoke_about_is_unknown() {
        let board = StatusBoard::default();
        let conditions = board.conditions();
        assert_eq!(conditions.len(), ConditionKind::ALL.len());
        assert!(conditions.iter().all(|condition| condition.status == ConditionStatus::Unknown));
        assert_eq!(board.phase(), Phase::Starting);
    }

    #[test]
    fn is_ready_when_all_holds_and_degraded_afterwards() {
        let board = StatusBoard::default();
        for kind in ConditionKind::ALL {
            assert!(!board.ready());
            board.holds(kind, "fine");
        }
        assert_eq!(board.phase(), Phase::Ready);
        assert_eq!(board.failure(ConditionKind::NodeReady), None);
        board.fails(ConditionKind::NodeReady, "kubelet does not answer");
        assert_eq!(board.phase(), Phase::Degraded);
        let failure = board.failure(ConditionKind::NodeReady).map(|(reason, _)| reason);
        assert_eq!(failure.as_deref(), Some("kubelet does not answer"));
    }

    #[test]
    fn a_worker_needs_neither_store_nor_dns_of_its_own() {
        let board = StatusBoard::of(Role::Worker);
        for kind in ConditionKind::of(Role::Worker) {
            assert!(!board.ready());
            board.holds(*kind, "fine");
        }
        assert_eq!(board.phase(), Phase::Ready);
        assert!(board.conditions().iter().all(|condition| condition.kind != "StoreServing"));
    }

    #[test]
    fn a_new_reason_does_not_change_since_when() {
        let board = StatusBoard::default();
        board.fails(ConditionKind::NetworkUp, "no carrier");
        let before = board.conditions();
        board.fails(ConditionKind::NetworkUp, "no DHCP answer");
        let after = board.conditions();
        assert_eq!(before[1].since, after[1].since);
        assert_eq!(after[1].reason, "no DHCP answer");
    }

    #[test]
    fn watchers_wake_for_news_only() {
        let board = StatusBoard::default();
        let mut watch = board.watch();
        board.holds(ConditionKind::Member, "founded");
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        board.holds(ConditionKind::Member, "founded");
        assert!(!watch.has_changed().unwrap());
    }
}
