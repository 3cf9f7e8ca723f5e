//! The machine's end: what is left is killed, the record is written, file systems are unmounted, the kernel is told.
//!
//! Any of these steps may block for ever (a dead disk, a network file system without a server). So each is done by a process or
//! a thread that may hang in PID 1's stead, with a limit, and what does not answer is named and abandoned. Behind that stand
//! the enforcer's threads (`shutdown`), whose deadline is drawn near as soon as the services have ended, and until the kernel is told the
//! watchdog, if there is one: it is never disarmed, and fed between the steps but in none of them.
//!
//! Nobody reads signals any more, so ctrl-alt-del is the kernel's to obey: who presses it now has waited long enough, and gets a
//! restart at once, without a sync, even where every thread of this process hangs.

use std::path::Path;
use std::thread;
use std::time::Duration;

use keelson_control::ShutdownKind;
use keelson_job::BootEnd;
use keelson_sys::{clock, power, process};

use crate::boot::{Action, Verdict};
use crate::console::Console;
use crate::vitals::Vitals;
use crate::{recovery, signals};

mod unmount;

/// How long processes outside any service get after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How many processes are named that do not end.
const LEFT_MAX: usize = 8;
const SUBJECT: &str = "shutdown";

impl From<Action> for ShutdownKind {
    fn from(action: Action) -> Self {
        match action {
            Action::Reboot => Self::Reboot,
            Action::PowerOff => Self::PowerOff,
        }
    }
}

impl From<Action> for power::End {
    fn from(action: Action) -> Self {
        match action {
            Action::Reboot => Self::Reboot,
            Action::PowerOff => Self::PowerOff,
        }
    }
}

/// Ends the machine. Services have stopped, could not be stopped, or were not started yet.
pub(crate) fn end(console: &mut Console, vitals: &mut Vitals, verdict: &Verdict) -> ! {
    if let Err(error) = power::ctrl_alt_del_restarts() {
        console.warn(SUBJECT, format_args!("ctrl-alt-del does nothing from here on: {error}"));
    }
    console.info(SUBJECT, format_args!("{}: {}", verdict.action.words(), verdict.reason));
    if let Some(enforcer) = &vitals.enforcer {
        enforcer.hasten(verdict.action.into(), clock::since_boot());
    }
    // Each step gets the watchdog's whole timeout.
    vitals.feed();
    // An update of the record may be under way; it must not write after the end.
    kill_everything(console);
    vitals.feed();
    let end = BootEnd {
        at: clock::wall().as_secs(),
        action: verdict.action.words().to_owned(),
        reason: verdict.reason.clone(),
        cause: verdict.cause,
    };
    recovery::record_end(console, SUBJECT, vitals, end);
    vitals.feed();
    unmount::everything(console);
    vitals.feed();
    recovery::sync_bounded(console);
    vitals.feed();
    console.info(SUBJECT, verdict.action.words());
    console.flush();
    let error = power::end(verdict.action.into());
    console.error(SUBJECT, format_args!("the kernel did not {}: {error}", verdict.action.words()));
    // The enforcer's thread goes on asking.
    loop {
        thread::park();
    }
}

/// Services are in their cgroups and gone; this is for whatever escaped.
fn kill_everything(console: &mut Console) {
    if process::kill_everything() && signals::reap_until_alone(KILL_LIMIT) {
        let left = keelson_init::process::others(Path::new("/proc"), LEFT_MAX).join("; ");
        console.warn(SUBJECT, format_args!("killed, but still there: {left}"));
    }
}
