//! Replacing the services that were handed over by a new set.

use std::collections::{BTreeMap, BTreeSet};

use keelson_control::{Applied, Desired, ServiceName, ServiceSet, ServiceSpec};

use super::service::{Service, State};
use super::{Command, Core, Step, StopCause};

/// What differs between the services that are there and `set`. Static services are nobody's to change.
pub(super) fn difference(services: &BTreeMap<ServiceName, Service>, set: &ServiceSet) -> Applied {
    let mut applied = Applied { version: set.version, ..Applied::default() };
    for spec in &set.services {
        match services.get(&spec.name) {
            None => applied.added.push(spec.name.clone()),
            Some(service) if service.removed => applied.added.push(spec.name.clone()),
            Some(service) if intended(service) != spec => applied.changed.push(spec.name.clone()),
            Some(_) => {}
        }
    }
    let named: BTreeSet<_> = set.services.iter().map(|spec| &spec.name).collect();
    let gone = services.values().filter(|service| !service.is_static && !service.removed);
    applied.removed = gone.map(|service| service.name().clone()).filter(|name| !named.contains(name)).collect();
    applied
}

fn intended(service: &Service) -> &ServiceSpec {
    service.replacement.as_ref().unwrap_or(&service.spec)
}

impl Core {
    /// Unchanged services are not touched, whatever state they are in.
    pub(super) fn apply(&mut self, set: ServiceSet, step: &mut Step) {
        if self.shutdown.has_begun() {
            return;
        }
        let applied = self.difference(&set);
        self.set_version = set.version;
        for name in &applied.removed {
            self.remove(name, step);
        }
        for spec in set.services {
            if applied.added.contains(&spec.name) {
                self.add(spec, step);
            } else if applied.changed.contains(&spec.name) {
                self.change(spec, step);
            }
        }
    }

    fn remove(&mut self, name: &ServiceName, step: &mut Step) {
        let Some(service) = self.services.get_mut(name) else { return };
        if service.state.run().is_some() {
            service.removed = true;
            service.desired = Desired::Down;
            service.want_stop(StopCause::Removed, step);
        } else {
            self.services.remove(name);
            step.push(Command::Forget { service: name.clone() });
        }
    }

    fn add(&mut self, spec: ServiceSpec, step: &mut Step) {
        let Some(service) = self.services.get_mut(&spec.name) else {
            self.services.insert(spec.name.clone(), Service::new(spec, false, step.now));
            return;
        };
        // It is on its way out. Its process ends first; then it starts as what the new set says.
        service.removed = false;
        service.desired = Desired::Up;
        service.replacement = Some(spec);
        service.stop_cause = Some(StopCause::Changed);
    }

    fn change(&mut self, spec: ServiceSpec, step: &mut Step) {
        let Some(service) = self.services.get_mut(&spec.name).filter(|service| !service.is_static) else { return };
        match service.state {
            State::Starting { .. } | State::Ready { .. } | State::Stopping { .. } => {
                service.replacement = Some(spec);
                service.stop_cause = Some(StopCause::Changed);
            }
            State::Stopped => service.spec = spec,
            State::Waiting { .. } | State::Backoff { .. } | State::Done | State::Failed { .. } => {
                service.spec = spec;
                service.forgive();
                service.wait(step.now);
            }
        }
    }
}
