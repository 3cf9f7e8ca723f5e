//! The ordered end: inhibitors, then services in reverse order of need, all before one absolute deadline.
//!
//! ```text
//! asked for ── inhibitors ≤ INHIBIT_MAX ── stops in order ── kill all ── complete
//! └──────────────────────────────── SHUTDOWN_MAX ────────────────────────────────┘
//! ```
//! The deadline counts from the request. It is kept twice: here, and by the thread of [`crate::shutdown`], which does
//! not depend on this code.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_control::{ServiceName, ShutdownKind};

use super::service::Service;
use super::{Command, Core, InhibitorId, Step, StopCause};

/// From the request to the end of the last service. Holds the longest wait for inhibitors and the stop of a store that
/// writes its last checkpoint.
pub const SHUTDOWN_MAX: Duration = Duration::from_mins(2);

/// The longest that inhibitors can delay: kubelet's grace period for pods, with room.
pub const INHIBIT_MAX: Duration = Duration::from_secs(75);

/// So long before the deadline everything that is left is killed, in no order.
const KILL_ALL_BEFORE: Duration = Duration::from_secs(5);

/// What is killed by force has so long to be gone. What is not by then sleeps in the kernel, and is called left.
const FORCED_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Shutdown {
    inhibitors: BTreeMap<InhibitorId, Inhibitor>,
    phase: Phase,
    request: Option<Request>,
}

#[derive(Debug)]
struct Inhibitor {
    who: String,
    delay_max: Duration,
}

#[derive(Debug, Clone)]
struct Request {
    kind: ShutdownKind,
    reason: String,
    deadline: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    None,
    Inhibited {
        until: Duration,
    },
    Stopping,
    Killing,
    Complete,
}

impl Shutdown {
    /// A late inhibitor does not delay a shutdown that was announced already.
    pub(super) fn inhibit(&mut self, id: InhibitorId, who: String, delay_max: Duration) {
        if self.phase == Phase::None {
            self.inhibitors.insert(id, Inhibitor { who, delay_max });
        }
    }

    pub(super) fn uninhibit(&mut self, id: InhibitorId) {
        self.inhibitors.remove(&id);
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.phase, Phase::None | Phase::Inhibited { .. })
    }

    pub(super) fn kind(&self) -> Option<ShutdownKind> {
        self.request.as_ref().map(|request| request.kind)
    }

    pub(super) fn kill_all_at(&self) -> Option<Duration> {
        self.request
            .as_ref()
            .filter(|_| self.has_begun())
            .map(|request| request.deadline.saturating_sub(KILL_ALL_BEFORE))
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Inhibited { until } => Some(until),
            Phase::Stopping => self.kill_all_at(),
            Phase::Killing => self.request.as_ref().map(|request| request.deadline),
            Phase::None | Phase::Complete => None,
        }
    }
}

impl Core {
    pub(super) fn shut_down(&mut self, kind: ShutdownKind, reason: String, step: &mut Step) {
        if self.shutdown.phase != Phase::None {
            return;
        }
        let longest = self.shutdown.inhibitors.values().map(|inhibitor| inhibitor.delay_max).max();
        let delay = longest.unwrap_or_default().min(INHIBIT_MAX);
        self.shutdown.phase = Phase::Inhibited { until: step.now + delay };
        let deadline = step.now + SHUTDOWN_MAX;
        self.shutdown.request = Some(Request { kind, reason: reason.clone(), deadline });
        step.push(Command::ShutdownBegun {
            kind,
            reason,
            inhibitors: self.shutdown.inhibitors.values().map(|inhibitor| inhibitor.who.clone()).collect(),
            inhibitors_deadline: delay,
        });
    }

    pub(super) fn force_shutdown(&mut self, step: &mut Step) {
        let Some(request) = &mut self.shutdown.request else { return };
        if self.shutdown.phase == Phase::Complete {
            return;
        }
        request.deadline = request.deadline.min(step.now + FORCED_MAX);
        if self.shutdown.phase != Phase::Killing {
            self.shutdown.phase = Phase::Killing;
            self.kill_all(step);
        }
    }

    pub(super) fn tick_shutdown(&mut self, step: &mut Step) {
        if self.shutdown.next_deadline().is_none_or(|deadline| step.now < deadline) {
            return;
        }
        match self.shutdown.phase {
            Phase::Inhibited { .. } => self.shutdown.inhibitors.clear(),
            Phase::Stopping => {
                self.shutdown.phase = Phase::Killing;
                self.kill_all(step);
            }
            Phase::Killing => self.complete(step),
            Phase::None | Phase::Complete => {}
        }
    }

    /// Inhibitors are gone: all services are to stop. Returns whether that was news.
    pub(super) fn begin_shutdown_stops(&mut self, step: &mut Step) -> bool {
        if !matches!(self.shutdown.phase, Phase::Inhibited { .. }) || !self.shutdown.inhibitors.is_empty() {
            return false;
        }
        self.shutdown.phase = Phase::Stopping;
        for service in self.services.values_mut() {
            service.want_stop(StopCause::Shutdown, step);
        }
        true
    }

    pub(super) fn finish_shutdown(&mut self, step: &mut Step) {
        let stopping = matches!(self.shutdown.phase, Phase::Stopping | Phase::Killing);
        if stopping && self.services.values().all(|service| service.state.run().is_none()) {
            self.complete(step);
        }
    }

    fn kill_all(&mut self, step: &mut Step) {
        for service in self.services.values_mut() {
            service.want_stop(StopCause::Shutdown, step);
            service.kill(step);
        }
    }

    fn complete(&mut self, step: &mut Step) {
        let Some(request) = self.shutdown.request.clone() else { return };
        self.shutdown.phase = Phase::Complete;
        let left: Vec<ServiceName> = self
            .services
            .values()
            .filter(|service| service.state.run().is_some())
            .map(Service::name)
            .cloned()
            .collect();
        step.push(Command::ShutdownComplete { kind: request.kind, reason: request.reason, left });
    }
}
