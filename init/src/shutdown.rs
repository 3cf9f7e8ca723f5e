//! The threads that end the machine when nothing else does.
//!
//! An ordered shutdown stops services, asks disks and unmounts: each of these can hang, and so can the code that is to
//! keep their deadlines. The deadline's thread cannot: it is started while all is well, its stack and text are locked in memory
//! (boot does that before services start), and all it ever does is wait on a futex with a timeout and make one call. It
//! takes no lock, allocates nothing, reads no file. It is armed when a shutdown is asked for and never disarmed.
//!
//! That call is reboot(2), which can hang in a driver, and waits for ever behind another one that does (`system_transition_mutex`). No
//! watchdog ends that: before the kernel shuts its devices down it stops those whose drivers ask for it, and most do
//! (`watchdog_stop_on_reboot`). So a second thread, which does nothing else, then waits for [`LAST_RESORT_AFTER`] and takes the last
//! resort, which asks no driver. It restarts even a machine that was to be off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use keelson_control::ShutdownKind;
use keelson_sys::clock;

use crate::supervisor::SHUTDOWN_MAX;

/// For the record, unmounting and the last sync, after the services' own time ([`SHUTDOWN_MAX`]). Shorter than any watchdog's
/// patience: a machine that is to be off must not be reset instead.
const FINISH_MAX: Duration = Duration::from_secs(40);

/// From the deadline's call to the last resort: what a driver may take that is slow and does not hang.
const LAST_RESORT_AFTER: Duration = Duration::from_secs(10);

/// All of a stack is locked memory.
const STACK_BYTES: usize = 64 * 1024;

/// Between two attempts to end the machine, should the first have returned.
const RETRY: Duration = Duration::from_secs(1);

const NOT_ARMED: u64 = 0;

/// Deadline in milliseconds since boot, shifted left by one; the lowest bit says whether the power goes off. One word, so
/// that it is read and written at once.
#[derive(Debug, Clone)]
pub struct Enforcer {
    armed: Arc<AtomicU64>,
    thread: Thread,
}

impl Enforcer {
    /// Starts the threads. `end` ends the machine and may return only if it could not; `last_resort` likewise, where `end` does neither.
    pub fn start(
        end: impl Fn(ShutdownKind) + Send + 'static,
        last_resort: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_with(end, last_resort, LAST_RESORT_AFTER)
    }

    fn start_with(
        end: impl Fn(ShutdownKind) + Send + 'static,
        last_resort: impl Fn() + Send + 'static,
        last_resort_after: Duration,
    ) -> io::Result<Self> {
        let (armed, called) = (Arc::new(AtomicU64::new(NOT_ARMED)), Arc::new(AtomicBool::new(false)));
        let calls = Arc::clone(&called);
        let last = spawn("last-resort", move || take_last_resort(&calls, last_resort_after, last_resort))?;
        let seen = Arc::clone(&armed);
        let thread = spawn("deadline", move || {
            enforce(&seen, |kind| {
                called.store(true, Ordering::SeqCst);
                last.unpark();
                end(kind);
            });
        })?;
        Ok(Self { armed, thread })
    }

    /// From now on the machine's time is limited. Only the first call counts: the deadline is absolute.
    pub fn arm(&self, kind: ShutdownKind, now: Duration) {
        self.arm_at(kind, now + SHUTDOWN_MAX + FINISH_MAX);
    }

    fn arm_at(&self, kind: ShutdownKind, deadline: Duration) {
        let word = encode(kind, deadline);
        let _ = self.armed.compare_exchange(NOT_ARMED, word, Ordering::SeqCst, Ordering::SeqCst);
        self.thread.unpark();
    }

    /// The services have ended: what is left gets its own time and no more. A deadline that comes sooner stays.
    pub fn hasten(&self, kind: ShutdownKind, now: Duration) {
        self.hasten_to(kind, now + FINISH_MAX);
    }

    fn hasten_to(&self, kind: ShutdownKind, deadline: Duration) {
        let word = encode(kind, deadline);
        let sooner = |armed| (armed == NOT_ARMED || word >> 1 < armed >> 1).then_some(word);
        let _ = self.armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, sooner);
        self.thread.unpark();
    }
}

/// Rounded up: never before the deadline, and never zero.
fn encode(kind: ShutdownKind, deadline: Duration) -> u64 {
    let milliseconds = u64::try_from(deadline.as_millis() + 1).unwrap_or(u64::MAX >> 1);
    (milliseconds << 1) | u64::from(kind == ShutdownKind::PowerOff)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let handle = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work)?;
    Ok(handle.thread().clone())
}

fn enforce(armed: &AtomicU64, end: impl Fn(ShutdownKind)) {
    loop {
        let word = armed.load(Ordering::SeqCst);
        if word == NOT_ARMED {
            thread::park();
            continue;
        }
        let left = Duration::from_millis(word >> 1).saturating_sub(clock::since_boot());
        if left.is_zero() {
            end(if word & 1 == 1 { ShutdownKind::PowerOff } else { ShutdownKind::Reboot });
            thread::park_timeout(RETRY);
        } else {
            thread::park_timeout(left);
        }
    }
}

fn take_last_resort(called: &AtomicBool, after: Duration, last_resort: impl Fn()) {
    while !called.load(Ordering::SeqCst) {
        thread::park();
    }
    let due = clock::since_boot() + after;
    loop {
        let left = due.saturating_sub(clock::since_boot());
        if left.is_zero() {
            last_resort();
            thread::park_timeout(RETRY);
        } else {
            thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn the_machine_is_ended_at_the_deadline_and_again_if_that_fails() {
        let (sender, receiver) = mpsc::channel();
        let enforcer =
            Enforcer::start(move |kind| sender.send((kind, clock::since_boot())).unwrap_or_default(), || {}).unwrap();
        let deadline = clock::since_boot() + Duration::from_millis(100);
        enforcer.arm_at(ShutdownKind::PowerOff, deadline);
        // A second request does not move the deadline.
        enforcer.arm_at(ShutdownKind::Reboot, deadline + DEADLINE * 2);
        let (kind, at) = receiver.recv_timeout(DEADLINE).unwrap();
        assert_eq!(kind, ShutdownKind::PowerOff);
        assert!(at >= deadline);
        receiver.recv_timeout(DEADLINE).unwrap();
    }

    #[test]
    fn services_that_end_early_leave_their_time_to_nobody() {
        let (sender, receiver) = mpsc::channel();
        let enforcer = Enforcer::start(move |kind| sender.send(kind).unwrap_or_default(), || {}).unwrap();
        enforcer.arm(ShutdownKind::PowerOff, clock::since_boot());
        enforcer.hasten_to(ShutdownKind::PowerOff, clock::since_boot() + Duration::from_millis(100));
        assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), ShutdownKind::PowerOff);
        let before = enforcer.armed.load(Ordering::SeqCst);
        enforcer.hasten(ShutdownKind::Reboot, clock::since_boot());
        assert_eq!(enforcer.armed.load(Ordering::SeqCst), before, "a later deadline is none");
    }

    #[test]
    fn last_resort_is_taken_some_time_after_a_call_that_hangs() {
        const AFTER: Duration = Duration::from_millis(100);
        let (sender, receiver) = mpsc::channel();
        let last = sender.clone();
        let (_open, never) = mpsc::channel::<()>();
        let end = move |_: ShutdownKind| {
            sender.send(("end", clock::since_boot())).unwrap_or_default();
            never.recv().unwrap_or_default();
        };
        let last_resort = move || last.send(("last resort", clock::since_boot())).unwrap_or_default();
        let enforcer = Enforcer::start_with(end, last_resort, AFTER).unwrap();
        enforcer.arm_at(ShutdownKind::PowerOff, clock::since_boot());
        let [first, second] = [(); 2].map(|()| receiver.recv_timeout(DEADLINE).unwrap());
        assert_eq!((first.0, second.0), ("end", "last resort"));
        assert!(second.1 >= first.1 + AFTER, "{first:?}, {second:?}");
    }

    #[test]
    fn nothing_happens_until_it_is_armed() {
        let (sender, receiver) = mpsc::channel();
        let last = sender.clone();
        let end = move |_: ShutdownKind| sender.send("end").unwrap_or_default();
        let last_resort = move || last.send("last resort").unwrap_or_default();
        let _enforcer = Enforcer::start_with(end, last_resort, Duration::ZERO).unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
    }
}
