//! Signals as something to read, never as an interruption.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// All signals of this process, blocked and read from a descriptor (signalfd(2)).
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks every signal that can be blocked, except those that report a fault of this program itself: blocked, a fault
    /// would kill without a trace (signal(7)). Threads made later inherit the mask.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::all();
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP]
        {
            set.remove(fault);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { descriptor })
    }

    /// The next pending signal's number, or `None`.
    pub fn read(&self) -> io::Result<Option<i32>> {
        match self.descriptor.read_signal() {
            Ok(signal) => Ok(signal.and_then(|signal| i32::try_from(signal.ssi_signo).ok())),
            Err(Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

pub const CHILD: i32 = libc::SIGCHLD;
pub const INTERRUPT: i32 = libc::SIGINT;
pub const POWER: i32 = libc::SIGPWR;
