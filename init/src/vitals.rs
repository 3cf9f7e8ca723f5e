//! What has to work at any moment, however far the boot has come and whatever has gone wrong: who may ask for the machine's end is heard,
//! the watchdog is fed, and the end finds what it needs. `main` keeps it, outside of all that may panic.

use std::io;
use std::time::Duration;

use keelson_control::ShutdownKind;
use keelson_init::shutdown::Enforcer;
use keelson_job::Progress;
use keelson_sys::clock;
use keelson_sys::power::{self, EmergencyRestart};
use keelson_sys::watchdog::Watchdog;

use crate::boot::{Span, history};
use crate::signals::Requests;

#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// What was pressed since the boot began is still to be obeyed.
    pub(crate) requests: Requests,
    /// Armed already, if the machine has one. Whoever waits feeds it, at its own interval.
    pub(crate) watchdog: Option<Watchdog>,
    /// What the boot's record says so far.
    pub(crate) progress: Progress,
    /// The threads that keep the deadline of the machine's end. The first stage has none.
    pub(crate) enforcer: Option<Enforcer>,
}

impl Vitals {
    pub(crate) fn start_enforcer(&mut self) -> io::Result<()> {
        // A kernel without sysrq has no last resort.
        let last_resort = EmergencyRestart::prepare().ok();
        let end = |kind| {
            power::end(match kind {
                ShutdownKind::Reboot => power::End::Reboot,
                ShutdownKind::PowerOff => power::End::PowerOff,
            });
        };
        let restart = move || drop(last_resort.as_ref().map(EmergencyRestart::restart));
        self.enforcer = Some(Enforcer::start(end, restart)?);
        Ok(())
    }

    pub(crate) fn feed(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            // A device that does not take it resets the machine, which is its business.
            let _ = watchdog.feed();
        }
    }

    /// How often whoever waits feeds the watchdog. Without one nobody has to.
    pub(crate) fn feeding_interval(&self) -> Duration {
        self.watchdog.as_ref().map_or(Duration::MAX, Watchdog::interval)
    }

    /// The boot has come so far.
    pub(crate) fn reached(&mut self, timeline: &[Span]) {
        let watchdog = self.progress.watchdog.take();
        self.progress = Progress { watchdog, ..history::progress(timeline) };
    }

    /// The record as it is now.
    pub(crate) fn progress_now(&mut self) -> Progress {
        self.progress.at = clock::wall().as_secs();
        self.progress.up_milliseconds = history::milliseconds(clock::since_boot());
        self.progress.clone()
    }
}
