//! The one place where every fatal path ends.
//!
//! It says on the console and in the kernel's log what is wrong, gives the disks a bounded time to take what is in memory,
//! and then either reboots or holds. Which of the two is decided by the failure's [`Rule`] and by the kernel's own policy: a
//! machine with `panic=N` reboots N seconds after a failure that a reboot may cure; what only a person can cure holds, because
//! rebooting into the same fault for ever helps nobody and hides the message. For the same reason a machine holds that has
//! failed by itself in its last boots already. Once STATE is there, the boot history keeps the reason.
//!
//! A holding machine still reaps, still obeys ctrl-alt-del and the power button, and repeats its message for whoever connects to the console
//! later.

use std::error::Error;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use keelson_init::supervisor::short;
use keelson_job::{BootEnd, Cause, Request};
use keelson_sys::clock;
use keelson_sys::power;

use crate::boot::Action;
use crate::boot::history::FAILED_BOOTS_MAX;
use crate::boot::job;
use crate::bounded;
use crate::console::Console;
use crate::vitals::Vitals;

/// How long the last sync may take.
const SYNC_LIMIT: Duration = Duration::from_secs(10);
/// How often a holding machine says why it holds.
const REMINDER_INTERVAL: Duration = Duration::from_mins(1);
/// The name under which recovery speaks.
const SUBJECT: &str = "recovery";

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Another boot may go better: reboot if the kernel's panic policy says so, else hold.
    Fatal,
    /// Only a person can help: hold.
    Hold,
    /// The machine is worth having without it: say so and go on.
    Degrade,
}

/// Something that cannot be helped here.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The phase in which it happened.
    pub(crate) phase: &'static str,
    pub(crate) rule: Rule,
    pub(crate) error: Box<dyn Error + Send + Sync>,
}

/// Set once STATE is mounted and this boot has a record in it: how many boots before this one failed in a row.
static FAILED_BEFORE: OnceLock<u32> = OnceLock::new();

/// From here on a failure is kept in the boot history.
pub(crate) fn state_is_open(failed_before: u32) {
    // A boot opens it once.
    let _ = FAILED_BEFORE.set(failed_before);
}

pub(crate) fn failed_before() -> u32 {
    FAILED_BEFORE.get().copied().unwrap_or_default()
}

impl Failure {
    pub(crate) fn new(phase: &'static str, rule: Rule, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { phase, rule, error: error.into() }
    }

    /// The panic's own words are in the kernel's log already.
    pub(crate) fn panicked() -> Self {
        Self::new("init", Rule::Fatal, "PID 1 panicked; the line before this one says where")
    }
}

/// An error with its causes, a line each.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Makes a panic say where it happened in the kernel's log. The default hook writes to standard error, which for PID 1 may be
/// a serial port that blocks.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let mut console = Console::default();
        console.open();
        console.error("init", format_args!("{panic}"));
    }));
}

/// Ends the machine, or waits for a person who does.
pub(crate) fn recover(console: &mut Console, failure: &Failure, vitals: &mut Vitals) -> ! {
    // The supervisor may have had the buttons.
    vitals.requests.open();
    if console.is_closed() {
        console.open();
    }
    console.leave_screen();
    report(console, failure);
    let patience = patience(failure.rule, kernel_panic_seconds(), failed_before());
    record_end(console, SUBJECT, vitals, end_of(failure, patience.is_some()));
    sync_bounded(console);
    if let Some(delay) = patience {
        console.error(SUBJECT, format_args!("rebooting in {} s", delay.as_secs()));
        wait_for_person(vitals, delay);
        end(vitals, Action::Reboot);
        // Only a kernel that cannot reboot comes here: hold.
    } else if failed_before() + 1 >= FAILED_BOOTS_MAX {
        console.error(SUBJECT, format_args!("this is failed boot {} in a row", failed_before() + 1));
    }
    hold(console, failure, vitals)
}

/// How the boot ended, as the next one is told it.
fn end_of(failure: &Failure, reboots: bool) -> BootEnd {
    let action = if reboots { "reboot" } else { "hold" }.to_owned();
    let reason = short(format!("{}: {}", failure.phase, chain(&*failure.error)).replace('\n', "; "));
    BootEnd { at: clock::wall().as_secs(), action, reason, cause: Cause::Failure }
}

/// Completes the boot's record, if there is a STATE to keep it on.
pub(crate) fn record_end(console: &mut Console, subject: &str, vitals: &mut Vitals, end: BootEnd) {
    if FAILED_BEFORE.get().is_none() {
        return;
    }
    let request = Request::CloseState { progress: vitals.progress_now(), end };
    if let Err(error) = job::run::<()>(console, &request) {
        console.warn(subject, format_args!("the boot's record was not kept: {}", chain(&error)));
    }
}

fn report(console: &mut Console, failure: &Failure) {
    console.error(failure.phase, chain(&*failure.error));
}

fn hold(console: &mut Console, failure: &Failure, vitals: &mut Vitals) -> ! {
    loop {
        console.error(
            SUBJECT,
            "this machine holds until the above is corrected; ctrl-alt-del reboots it, the power button turns it off",
        );
        wait_for_person(vitals, REMINDER_INTERVAL);
        report(console, failure);
    }
}

/// Reaps for so long, unless ctrl-alt-del, the power button or the like says to end sooner, or has said so in the boot.
fn wait_for_person(vitals: &mut Vitals, limit: Duration) {
    let deadline = Instant::now() + limit;
    let interval = vitals.feeding_interval();
    loop {
        vitals.feed();
        let left = deadline.saturating_duration_since(Instant::now());
        match vitals.requests.wait(left.min(interval)) {
            Some(request) => end(vitals, request.action),
            None if left <= interval => return,
            None => {}
        }
    }
}

/// Ends the machine. What failed may be a disk in whose driver reboot(2) hangs, and then somebody else restarts it.
fn end(vitals: &Vitals, action: Action) {
    // A machine that is about to end says no more about it.
    let _ = power::ctrl_alt_del_restarts();
    if let Some(enforcer) = &vitals.enforcer {
        enforcer.hasten(action.into(), clock::since_boot());
    }
    power::end(action.into());
}

/// How long to wait before a reboot; `None` is for ever.
fn patience(rule: Rule, kernel_panic_seconds: i64, failed_before: u32) -> Option<Duration> {
    match rule {
        Rule::Fatal if failed_before + 1 >= FAILED_BOOTS_MAX => None,
        Rule::Hold | Rule::Degrade => None,
        Rule::Fatal => match kernel_panic_seconds {
            0 => None,
            // The kernel's meaning of a negative value: at once.
            seconds => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default())),
        },
    }
}

/// What the kernel does after a panic: `panic=` on its command line, or the sysctl of that name.
fn kernel_panic_seconds() -> i64 {
    std::fs::read_to_string("/proc/sys/kernel/panic").ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

/// Syncs in a thread that may hang instead of this one.
pub(crate) fn sync_bounded(console: &mut Console) {
    if bounded::within(SYNC_LIMIT, rustix::fs::sync).is_none() {
        console.warn(SUBJECT, format_args!("the disks did not take everything within {} s", SYNC_LIMIT.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_only_a_person_can_cure_holds_whatever_the_kernel_would_do() {
        assert_eq!(patience(Rule::Hold, 10, 0), None);
    }

    #[test]
    fn fatal_failure_follows_the_kernels_panic_policy() {
        assert_eq!(patience(Rule::Fatal, 10, 0), Some(Duration::from_secs(10)));
        assert_eq!(patience(Rule::Fatal, -1, 0), Some(Duration::ZERO));
        assert_eq!(patience(Rule::Fatal, 0, 0), None);
    }

    #[test]
    fn machine_that_failed_in_its_last_boots_already_holds() {
        assert!(patience(Rule::Fatal, 10, FAILED_BOOTS_MAX - 2).is_some());
        assert_eq!(patience(Rule::Fatal, 10, FAILED_BOOTS_MAX - 1), None);
    }

    #[test]
    fn chain_names_every_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot mount /state")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("no such device"));
        assert_eq!(chain(&error), "cannot mount /state: no such device");
    }
}
