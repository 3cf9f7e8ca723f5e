//! The thread that ends the machine when nothing else does.
//!
//! An ordered shutdown stops services, asks disks and unmounts: each of these can hang, and so can the code that is to
//! keep their deadlines. This thread cannot: it is started while all is well, its stack and text are locked in memory
//! (boot does that before services start), and all it ever does is wait on a futex with a timeout and make one call. It
//! takes no lock, allocates nothing, reads no file. It is armed when a shutdown is asked for and never disarmed.
//!
//! What can still hang is the reboot call itself, in a driver; for that there is the watchdog, which this thread does not
//! feed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use keelson_control::ShutdownKind;
use keelson_sys::clock;

use crate::supervisor::SHUTDOWN_MAX;

/// For the record, unmounting and the last sync, after the services' own time ([`SHUTDOWN_MAX`]). Shorter than any watchdog's
/// patience: a machine that is to be off must not be reset instead.
const FINISH_MAX: Duration = Duration::from_secs(40);

/// All of its stack is locked memory.
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
    /// Starts the thread. `end` ends the machine and may return only if it could not.
    pub fn start(end: impl Fn(ShutdownKind) + Send + 'static) -> io::Result<Self> {
        let armed = Arc::new(AtomicU64::new(NOT_ARMED));
        let seen = Arc::clone(&armed);
        let handle = thread::Builder::new()
            .name("deadline".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || enforce(&seen, end))?;
        Ok(Self { armed, thread: handle.thread().clone() })
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn the_machine_is_ended_at_the_deadline_and_again_if_that_fails() {
        let (sender, receiver) = mpsc::channel();
        let enforcer =
            Enforcer::start(move |kind| sender.send((kind, clock::since_boot())).unwrap_or_default()).unwrap();
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
        let enforcer = Enforcer::start(move |kind| sender.send(kind).unwrap_or_default()).unwrap();
        enforcer.arm(ShutdownKind::PowerOff, clock::since_boot());
        enforcer.hasten_to(ShutdownKind::PowerOff, clock::since_boot() + Duration::from_millis(100));
        assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), ShutdownKind::PowerOff);
        let before = enforcer.armed.load(Ordering::SeqCst);
        enforcer.hasten(ShutdownKind::Reboot, clock::since_boot());
        assert_eq!(enforcer.armed.load(Ordering::SeqCst), before, "a later deadline is none");
    }

    #[test]
    fn nothing_happens_until_it_is_armed() {
        let (sender, receiver) = mpsc::channel();
        let _enforcer = Enforcer::start(move |kind| sender.send(kind).unwrap_or_default()).unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
    }
}
