//! What services wait for.
//!
//! `ServiceReady` is decided from the core's own state; the rest is watched by the driver. Which conditions are watched
//! follows from the states of all services each time: those that waiting services have, and those by which starting
//! services become ready.

use std::collections::BTreeSet;
use std::time::Duration;

use keelson_control::{Condition, ServiceKind};

use super::service::{REMINDER_FIRST, REMINDER_MAX, Service, State};
use super::{Change, Command, Core, Step};

impl Core {
    pub(super) fn condition(&mut self, condition: &Condition, holds: bool) {
        if let Some(known) = self.watches.get_mut(condition) {
            *known = holds;
        }
    }

    /// The conditions of `service` that do not hold now.
    pub(super) fn unmet<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Condition> {
        service.spec.conditions.iter().filter(|condition| !self.holds(condition))
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::ServiceReady(name) => self.services.get(name).is_some_and(|target| {
                let once = target.spec.kind == ServiceKind::OneShot;
                matches!(target.state, State::Ready { .. }) || (once && target.state == State::Done)
            }),
            watched => self.watches.get(watched) == Some(&true),
        }
    }

    pub(super) fn waiting_reason(&self, service: &Service) -> String {
        let unmet: Vec<String> = self.unmet(service).map(ToString::to_string).collect();
        unmet.join(", ")
    }

    pub(super) fn sync_watches(&mut self, step: &mut Step) {
        let wanted = self.wanted_watches();
        let stale: Vec<Condition> = self.watches.keys().filter(|held| !wanted.contains(held)).cloned().collect();
        for condition in stale {
            self.watches.remove(&condition);
            step.push(Command::Unwatch { condition });
        }
        for condition in wanted {
            if !self.watches.contains_key(&condition) {
                self.watches.insert(condition.clone(), false);
                step.push(Command::Watch { condition });
            }
        }
    }

    fn wanted_watches(&self) -> BTreeSet<Condition> {
        let mut wanted = BTreeSet::new();
        for service in self.services.values() {
            match service.state {
                State::Waiting { .. } => {
                    let external = |condition: &&Condition| !matches!(condition, Condition::ServiceReady(_));
                    wanted.extend(service.spec.conditions.iter().filter(external).cloned());
                }
                State::Starting { .. } => wanted.extend(service.readiness_condition()),
                _ => {}
            }
        }
        wanted
    }

    /// Tells about long waits: after [`REMINDER_FIRST`], then each time after twice as long.
    pub(super) fn remind_of_waiting(&mut self, step: &mut Step) {
        let mut due = Vec::new();
        for service in self.services.values() {
            if let State::Waiting { remind_at } = service.state
                && step.now >= remind_at
            {
                due.push((service.name().clone(), self.waiting_reason(service), service.since));
            }
        }
        for (name, reason, since) in due {
            if let Some(service) = self.services.get_mut(&name) {
                let waited = step.now.saturating_sub(since);
                service.state = State::Waiting { remind_at: step.now + next_reminder(waited) };
                step.changed(&name, Change::Waiting { reason, since: waited });
            }
        }
    }
}

fn next_reminder(waited: Duration) -> Duration {
    waited.clamp(REMINDER_FIRST, REMINDER_MAX)
}
