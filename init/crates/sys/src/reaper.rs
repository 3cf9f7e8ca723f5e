//! Children that have ended, seen before they are reaped.
//!
//! PID 1 inherits every orphan, so it waits for any child; but a loop of `waitid(P_ALL)` that reaps at once would take the
//! exit status of a supervised child away from whoever waits for its pidfd. Hence the peek (`WNOWAIT`): look who has ended,
//! then reap exactly that one.

use std::io;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::process::Exit;

/// A child that has ended and waits to be reaped. `None`: there is none now. It stays what it is until [`reap`].
pub fn peek() -> io::Result<Option<i32>> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::All, flags) {
        Ok(status) => Ok(status.pid().map(Pid::as_raw)),
        Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reaps this child. `None`: it has not ended.
pub fn reap(pid: i32) -> io::Result<Option<Exit>> {
    match waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)? {
        WaitStatus::Exited(_, status) => Ok(Some(Exit::Status(status))),
        WaitStatus::Signaled(_, signal, _) => Ok(Some(Exit::Signal(signal as i32))),
        _ => Ok(None),
    }
}

/// Whether there is any child, running or ended.
pub fn has_children() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(Errno::ECHILD)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::process::{Command, spawn};

    #[test]
    fn peeking_leaves_the_exit_status_to_be_reaped() {
        // Other tests of this process have children too: look for ours among them.
        let arguments = ["sh", "-c", "exit 9"].map(|word| std::ffi::CString::new(word).unwrap());
        let child = spawn(&Command {
            program: c"/bin/sh",
            arguments: &arguments,
            environment: &[],
            descriptors: &[],
            cgroup: None,
        })
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while peek().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no child was seen to end");
            std::thread::yield_now();
        }
        let reaped = loop {
            assert!(Instant::now() < deadline, "the child was not reaped");
            if let Some(exit) = reap(child.pid).unwrap() {
                break exit;
            }
            std::thread::yield_now();
        };
        assert_eq!(reaped, Exit::Status(9));
    }
}
