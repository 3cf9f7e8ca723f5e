//! Signals to PID 1, taken from a descriptor and never by a handler.
//!
//! All are blocked from the first instruction on, so none is lost between boot, supervision and recovery, and none can
//! interrupt a call. Children start with an empty mask (keelson-sys, `process`).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Blocks every signal for this process and the threads it will have.
pub(crate) fn block_all() {
    // Fails only for an invalid argument.
    let _ = SigSet::all().thread_block();
}

/// The descriptor; absent if the kernel would not give one, in which case waiting still ends in time.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: Option<SignalFd>,
}

impl Signals {
    pub(crate) fn open() -> Self {
        let descriptor = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok();
        Self { descriptor }
    }

    /// Reaps until the limit. Returns early with a signal that asks for something.
    pub(crate) fn wait_for_request(&self, limit: Duration) -> Option<Signal> {
        let deadline = Instant::now() + limit;
        loop {
            reap_all();
            if let Some(signal) = self.next_request() {
                return Some(signal);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Rounded up, so that a rest below a millisecond does not spin.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut descriptors: Vec<_> =
                self.descriptor.iter().map(|descriptor| PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)).collect();
            let _ = poll(&mut descriptors, timeout);
        }
    }

    fn next_request(&self) -> Option<Signal> {
        let descriptor = self.descriptor.as_ref()?;
        while let Ok(Some(info)) = descriptor.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if matches!(signal, Some(Signal::SIGINT | Signal::SIGPWR)) {
                return signal;
            }
        }
        None
    }
}

/// Reaps every child that has ended. For the times before and after supervision only: it would steal a service's status.
pub(crate) fn reap_all() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Reaps until no child is left or the limit is over. Returns whether some are left.
pub(crate) fn reap_until_alone(limit: Duration) -> bool {
    let signals = Signals::open();
    let deadline = Instant::now() + limit;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(_) => return false,
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => continue,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        signals.wait_for_request(left.min(Duration::from_millis(50)));
    }
}
