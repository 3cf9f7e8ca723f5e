//! One service: its state and its own transitions. Whatever concerns several services is [`Core`](super::Core)'s.

use std::time::Duration;

use keelson_control::{
    Condition, Desired, ExitReason, Readiness, RestartPolicy, ServiceKind, ServiceName, ServiceSpec,
};

use super::restart::{self, Jitter, Rung, Standing, Verdict};
use super::{Change, Command, Run, Step, StopCause};

/// When a wait is first mentioned on the console; then after twice as long, and so on up to [`REMINDER_MAX`].
pub(super) const REMINDER_FIRST: Duration = Duration::from_secs(5);
pub(super) const REMINDER_MAX: Duration = Duration::from_mins(5);

/// Processes that are still there so long after SIGKILL are worth a line.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Stopped,
    Waiting {
        remind_at: Duration,
    },
    Starting {
        run: Run,
        /// When it has to be ready, if there is a limit.
        deadline: Option<Duration>,
    },
    Ready {
        run: Run,
    },
    Stopping {
        run: Run,
        /// Signalled: when to kill. Killed: `None`.
        kill_at: Option<Duration>,
        /// Killed: when to mention that it does not end.
        linger_at: Option<Duration>,
        main_exited: bool,
    },
    Backoff {
        reason: String,
        until: Duration,
    },
    Done,
    Failed {
        reason: String,
        retry_at: Option<Duration>,
    },
}

/// Its patience is used up in two halves. A machine that stood still (a virtual machine that was paused) finds the first one over without
/// anybody having been silent; the second one is then time enough to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watchdog {
    spoke_at: Duration,
    half: Duration,
    over_at: Duration,
    was_silent: bool,
}

impl Watchdog {
    fn new(patience: Duration, now: Duration) -> Self {
        let half = patience / 2;
        Self { spoke_at: now, half, over_at: now + half, was_silent: false }
    }
}

impl State {
    /// The generation that has a process, if one has.
    pub(super) fn run(&self) -> Option<Run> {
        match self {
            Self::Starting { run, .. } | Self::Ready { run } | Self::Stopping { run, .. } => Some(*run),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) spec: ServiceSpec,
    /// Takes the place of `spec` once the process of the old one is gone.
    pub(super) replacement: Option<ServiceSpec>,
    pub(super) is_static: bool,
    pub(super) desired: Desired,
    /// To be forgotten once its process is gone.
    pub(super) removed: bool,
    pub(super) state: State,
    pub(super) since: Duration,
    /// Why its process is to be stopped, from the wish until the process is gone.
    pub(super) stop_cause: Option<StopCause>,
    /// Failures since the last stable run.
    pub(super) failures: u32,
    /// How often it was given up since then.
    pub(super) rounds: u32,
    pub(super) restarts: u32,
    pub(super) pid: Option<u32>,
    pub(super) started_at: Option<Duration>,
    pub(super) ready_at: Option<Duration>,
    pub(super) last_exit: Option<(ExitReason, Duration)>,
    /// Of a running one that is to say that it lives: from its first word on, and once it is ready at the latest.
    pub(super) watchdog: Option<Watchdog>,
}

impl Service {
    pub(super) fn new(spec: ServiceSpec, is_static: bool, now: Duration) -> Self {
        Self {
            spec,
            replacement: None,
            is_static,
            desired: Desired::Up,
            removed: false,
            state: State::Waiting { remind_at: now + REMINDER_FIRST },
            since: now,
            stop_cause: None,
            failures: 0,
            rounds: 0,
            restarts: 0,
            pid: None,
            started_at: None,
            ready_at: None,
            last_exit: None,
            watchdog: None,
        }
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.spec.name
    }

    pub(super) fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.since = now;
    }

    pub(super) fn wait(&mut self, now: Duration) {
        self.enter(State::Waiting { remind_at: now + REMINDER_FIRST }, now);
    }

    /// Whether `needed` may stop only after this one. What was handed over relies on what PID 1 brings itself.
    pub(super) fn needs(&self, needed: &Self) -> bool {
        (!self.is_static && needed.is_static) || self.spec.needs().any(|name| *name == needed.spec.name)
    }

    /// Wanted to stop, and not signalled yet.
    pub(super) fn stop_is_due(&self) -> bool {
        self.stop_cause.is_some() && matches!(self.state, State::Starting { .. } | State::Ready { .. })
    }

    /// Marks a running service for its stop; an idle one is stopped at once.
    pub(super) fn want_stop(&mut self, cause: StopCause, step: &mut Step) {
        match self.state {
            State::Starting { .. } | State::Ready { .. } | State::Stopping { .. } => self.stop_cause = Some(cause),
            State::Stopped => {}
            State::Waiting { .. } | State::Backoff { .. } | State::Done | State::Failed { .. } => {
                self.enter(State::Stopped, step.now);
                step.changed(self.name(), Change::Stopped);
            }
        }
    }

    pub(super) fn begin_run(&mut self, run: Run, step: &mut Step) {
        let deadline = self.spec.timeout_start().map(|timeout| step.now + timeout);
        self.enter(State::Starting { run, deadline }, step.now);
        self.started_at = Some(step.now);
        self.ready_at = None;
        self.watchdog = None;
        step.push(Command::Spawn { service: self.name().clone(), run });
        step.changed(self.name(), Change::Starting);
    }

    pub(super) fn become_ready(&mut self, step: &mut Step) {
        let State::Starting { run, .. } = self.state else { return };
        self.enter(State::Ready { run }, step.now);
        self.speaks(step.now);
        self.ready_at = Some(step.now);
        let after = step.now.saturating_sub(self.started_at.unwrap_or(step.now));
        step.changed(self.name(), Change::Ready { after });
    }

    /// It has spoken, or is to speak from now on.
    pub(super) fn speaks(&mut self, now: Duration) {
        self.watchdog = self.spec.watchdog().map(|patience| Watchdog::new(patience, now));
    }

    fn is_silent(&mut self, now: Duration) {
        match &mut self.watchdog {
            Some(watchdog) if watchdog.was_silent => self.stop_cause = Some(StopCause::Silent),
            Some(watchdog) => *watchdog = Watchdog { over_at: now + watchdog.half, was_silent: true, ..*watchdog },
            None => {}
        }
    }

    pub(super) fn is_ready_once_executed(&self) -> bool {
        self.spec.kind == ServiceKind::Daemon && self.spec.readiness == Readiness::Started
    }

    pub(super) fn is_ready_once_notified(&self) -> bool {
        self.spec.kind == ServiceKind::Daemon && self.spec.readiness == Readiness::Notify
    }

    /// What the driver has to watch to see that this service is ready.
    pub(super) fn readiness_condition(&self) -> Option<Condition> {
        match &self.spec.readiness {
            Readiness::Socket(path) => Some(Condition::SocketAnswers(path.clone())),
            Readiness::Tcp(address) => Some(Condition::TcpAnswers(*address)),
            Readiness::Started | Readiness::Notify => None,
        }
    }

    /// Signals the main process. `kill_at_most` is the moment when a shutdown's patience ends. Who does not live is not asked.
    pub(super) fn terminate(&mut self, kill_at_most: Option<Duration>, step: &mut Step) {
        let (Some(run), Some(cause)) = (self.state.run(), self.stop_cause.clone()) else { return };
        if cause == StopCause::Silent {
            step.changed(self.name(), Change::Stopping { cause });
            return self.kill(step);
        }
        let kill_at = step.now + self.spec.timeout_stop();
        let kill_at = kill_at_most.map_or(kill_at, |limit| kill_at.min(limit));
        self.enter(State::Stopping { run, kill_at: Some(kill_at), linger_at: None, main_exited: false }, step.now);
        step.push(Command::Terminate { service: self.name().clone() });
        step.changed(self.name(), Change::Stopping { cause });
    }

    /// Kills whatever runs, at once.
    pub(super) fn kill(&mut self, step: &mut Step) {
        let Some(run) = self.state.run() else { return };
        let main_exited = matches!(self.state, State::Stopping { main_exited: true, .. });
        let linger_at = Some(step.now + LINGER);
        self.enter(State::Stopping { run, kill_at: None, linger_at, main_exited }, step.now);
        step.push(Command::KillAll { service: self.name().clone(), run });
    }

    pub(super) fn main_exited(&mut self, reason: ExitReason, step: &mut Step) {
        let unasked = !matches!(self.state, State::Stopping { .. });
        if unasked {
            step.changed(self.name(), Change::Ended { reason: reason.clone() });
        }
        self.last_exit = Some((reason, step.now));
        self.pid = None;
        self.kill(step);
        if let State::Stopping { main_exited, .. } = &mut self.state {
            *main_exited = true;
        }
    }

    /// Judges an end: `cause` is why it was stopped, if it was.
    pub(super) fn judge(&mut self, cause: Option<StopCause>, now: Duration) -> Verdict {
        let well = self.was_well_for(cause.as_ref(), now);
        let ended_by_itself = cause.is_none();
        let reason = match cause {
            Some(StopCause::Unhealthy { reason }) => format!("was unhealthy: {reason}"),
            Some(StopCause::StartTimeout) => {
                format!("was not ready after {} s", self.spec.timeout_start_seconds)
            }
            Some(StopCause::Silent) => format!("did not say for {} s that it lives", self.spec.watchdog_seconds),
            Some(_) => {
                self.forgive();
                return Verdict::Again;
            }
            None => {
                let ended = self.last_exit.as_ref().map(|(reason, _)| reason);
                let success = ended.is_some_and(ExitReason::is_success);
                if success && (self.spec.kind == ServiceKind::OneShot || self.spec.restart != RestartPolicy::Always) {
                    return Verdict::Done;
                }
                ended.map_or_else(|| "ended".to_owned(), ToString::to_string)
            }
        };
        if self.spec.restart == RestartPolicy::Never {
            return Verdict::GiveUp { reason };
        }
        if well >= restart::STABLE {
            self.forgive();
        } else if ended_by_itself {
            let forgiven = well.as_secs() / restart::ONE_FORGIVEN.as_secs();
            self.failures = self.failures.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        }
        Verdict::Failure { reason }
    }

    /// For how long it was ready and known to be well. A hang is noticed late, and the time until then is none of health: a service
    /// that hangs whenever it is ready would be called stable each time.
    fn was_well_for(&self, cause: Option<&StopCause>, now: Duration) -> Duration {
        let Some(ready) = self.ready_at else { return Duration::ZERO };
        let well_until = match cause {
            Some(StopCause::Silent) => self.watchdog.map_or(ready, |watchdog| watchdog.spoke_at),
            Some(StopCause::Unhealthy { .. }) => now.saturating_sub(keelson_control::UNHEALTHY_REPORT_MAX),
            _ => now,
        };
        well_until.saturating_sub(ready)
    }

    /// Forgets earlier failures.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.rounds = 0;
    }

    /// Counts a failure and takes the ladder's next step. Returns it, because it may concern others.
    pub(super) fn fail(&mut self, reason: String, may_reboot: bool, jitter: &mut Jitter, step: &mut Step) -> Rung {
        self.failures = self.failures.saturating_add(1);
        let rung = restart::rung(Standing {
            failures: self.failures,
            rounds: self.rounds,
            at_the_end: self.spec.on_persistent_failure,
            may_reboot,
        });
        match rung {
            Rung::Restart { delay } | Rung::RestartDependants { delay } => {
                let delay = jitter.spread(delay);
                self.enter(State::Backoff { reason: reason.clone(), until: step.now + delay }, step.now);
                step.changed(self.name(), Change::Backoff { reason, delay });
            }
            Rung::GiveUp { retry } | Rung::Reboot { retry } | Rung::NotAgain { retry } => {
                let failures = self.failures;
                let mut reason = format!("{reason}, for the {failures}th time without a stable run");
                if matches!(rung, Rung::NotAgain { .. }) {
                    reason.push_str("; the reboots before did not help, so there is none");
                }
                self.give_up(reason, Some(retry), step);
            }
        }
        rung
    }

    pub(super) fn give_up(&mut self, reason: String, retry: Option<Duration>, step: &mut Step) {
        let retry_at = retry.map(|retry| step.now + retry);
        self.enter(State::Failed { reason: reason.clone(), retry_at }, step.now);
        step.changed(self.name(), Change::Failed { reason, retry });
    }

    fn silent_at(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog.over_at)
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Waiting { remind_at } => Some(*remind_at),
            State::Starting { deadline, .. } if self.stop_cause.is_none() => {
                deadline.iter().copied().chain(self.silent_at()).min()
            }
            State::Ready { .. } if self.stop_cause.is_none() => self.silent_at(),
            State::Stopping { kill_at, linger_at, .. } => kill_at.or(*linger_at),
            State::Backoff { until, .. } => Some(*until),
            State::Failed { retry_at, .. } => *retry_at,
            State::Stopped | State::Starting { .. } | State::Ready { .. } | State::Done => None,
        }
    }

    pub(super) fn tick(&mut self, step: &mut Step) {
        if self.next_deadline().is_none_or(|deadline| step.now < deadline) {
            return;
        }
        match &mut self.state {
            State::Starting { deadline: Some(deadline), .. } if step.now >= *deadline => {
                self.stop_cause = Some(StopCause::StartTimeout);
            }
            State::Starting { .. } | State::Ready { .. } => self.is_silent(step.now),
            State::Stopping { kill_at: Some(_), .. } => self.kill(step),
            State::Stopping { linger_at, .. } => {
                *linger_at = None;
                step.changed(&self.spec.name, Change::Lingers);
            }
            State::Backoff { .. } => {
                self.restarts = self.restarts.saturating_add(1);
                self.wait(step.now);
            }
            State::Failed { .. } => {
                // A new round, from the ladder's foot.
                self.failures = 0;
                self.rounds = self.rounds.saturating_add(1);
                self.restarts = self.restarts.saturating_add(1);
                self.wait(step.now);
            }
            State::Waiting { .. } | State::Stopped | State::Done => {}
        }
    }
}
