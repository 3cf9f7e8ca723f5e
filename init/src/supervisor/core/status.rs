//! What `list` shows of a service, as far as the core knows it.

use std::time::Duration;

use keelson_control::{LastExit, ServiceState, ServiceStatus};

use super::Core;
use super::service::{Service, State};

pub(super) fn of(service: &Service, core: &Core, now: Duration) -> ServiceStatus {
    let waiting = matches!(service.state, State::Waiting { .. });
    let reason = match &service.state {
        State::Backoff { reason, .. } | State::Failed { reason, .. } => Some(reason.clone()),
        State::Stopping { .. } => service.stop_cause.as_ref().map(ToString::to_string),
        _ => None,
    };
    ServiceStatus {
        name: service.name().clone(),
        state: state(&service.state),
        desired: service.desired,
        pid: service.pid,
        in_state_milliseconds: milliseconds(now.saturating_sub(service.since)),
        started_at_boottime_milliseconds: service.started_at.map(milliseconds),
        ready_at_boottime_milliseconds: service.ready_at.map(milliseconds),
        restarts: service.restarts,
        last_exit: service.last_exit.as_ref().map(|(reason, at)| LastExit {
            reason: reason.clone(),
            milliseconds_ago: milliseconds(now.saturating_sub(*at)),
        }),
        waiting_for: waiting.then(|| short(core.waiting_reason(service))),
        reason: reason.map(short),
        memory_bytes: None,
        cpu_microseconds: None,
    }
}

fn state(state: &State) -> ServiceState {
    match state {
        State::Stopped => ServiceState::Stopped,
        State::Waiting { .. } => ServiceState::Waiting,
        State::Starting { .. } => ServiceState::Starting,
        State::Ready { .. } => ServiceState::Ready,
        State::Stopping { .. } => ServiceState::Stopping,
        State::Backoff { .. } => ServiceState::Backoff,
        State::Done => ServiceState::Done,
        State::Failed { .. } => ServiceState::Failed,
    }
}

/// All services have to fit one packet (`keelson_control::SERVICES_MAX`), and all boots another: texts are cut.
const TEXT_MAX: usize = 200;

/// A text as it is told to others.
pub fn short(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
    }
    text
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
