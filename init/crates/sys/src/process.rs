//! Starting a child and waiting for it by its pidfd.
//!
//! The child is made by clone3(2), at once in its cgroup and with a pidfd, so that there is no moment in which it runs outside
//! its cgroup or in which its number could be another process's. Between clone and exec the child is a copy of a process
//! that may have had other threads: it makes plain system calls on what the parent prepared, allocates nothing and takes no lock.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_send_signal, waitid,
};

/// The exit status of a child whose program could not be executed, as shells have it.
pub const EXIT_NOT_EXECUTED: i32 = 127;

/// How many descriptors a child can be given: the child has no allocator, so there is a bound.
pub const MAX_DESCRIPTORS: usize = 16;

/// Moved descriptors go here first, above any number that a child asks for, so that no move overwrites another's source.
const MOVED_FROM: RawFd = 64;

/// What to start.
#[derive(Debug)]
pub struct Command<'a> {
    pub program: &'a CStr,
    /// With the program's name first, as execve(2) has it.
    pub arguments: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub environment: &'a [CString],
    /// What the child has open, and under which number (below 64). All else of ours is closed on exec.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
    /// The directory of the cgroup v2 group in which the child begins.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A child that runs or waits to be reaped.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    Signal(i32),
}

/// Starts a child in a session of its own, with an empty signal mask and default dispositions.
pub fn spawn(command: &Command<'_>) -> io::Result<Child> {
    if command.descriptors.len() > MAX_DESCRIPTORS
        || command.descriptors.iter().any(|(_, target)| *target >= MOVED_FROM)
    {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let prepared = Prepared {
        program: command.program,
        arguments: pointers(command.arguments),
        environment: pointers(command.environment),
        descriptors: command.descriptors.iter().map(|(source, target)| (source.as_raw_fd(), *target)).collect(),
    };
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or_default(),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = command.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: `arguments` has the layout of struct clone_args and lives through the call. No CLONE_VM is asked for, so the
    // child has its own copy of this stack and returns from the call as after fork(2); it goes on into `become_program`, which
    // keeps to async-signal-safe calls and never returns.
    // JUSTIFICATION: no crate of ours wraps clone3, and only clone3 starts a child inside a cgroup.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => prepared.become_program(),
        pid => {
            // SAFETY: the kernel has put a new descriptor here, which nobody else owns.
            // JUSTIFICATION: clone3 hands it over as a number.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: i32::try_from(pid).map_err(io::Error::other)?, pidfd })
        }
    }
}

impl Child {
    /// Waits at most so long for the end, and reaps. `None`: it still runs.
    pub fn wait(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        self.wait_beside(timeout, [])
    }

    /// The same, but returns as soon as one of `others` can be read.
    pub fn wait_beside<'a>(
        &'a self,
        timeout: Duration,
        others: impl IntoIterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<Option<Exit>> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let sources = std::iter::once(self.pidfd.as_fd()).chain(others);
        let mut descriptors: Vec<_> = sources.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)).collect();
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        reap(self.pidfd.as_fd())
    }

    /// Whether it has ended, without reaping it.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(&self.pidfd, PollFlags::IN)];
        Ok(poll(&mut descriptors, Some(&Timespec::default()))? > 0)
    }

    /// SIGKILL, to it and to what it has started. A child that sleeps in the kernel for good keeps sleeping.
    pub fn kill(&self) -> io::Result<()> {
        // It leads a group of its own once it runs in its session; until it is reaped nobody else has its number.
        if let Some(group) = Pid::from_raw(self.pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        Ok(pidfd_send_signal(&self.pidfd, Signal::KILL)?)
    }
}

/// Becomes another program, with this one's environment.
pub fn execute(program: &CStr, arguments: &[CString]) -> io::Result<Infallible> {
    Ok(nix::unistd::execv(program, arguments)?)
}

/// SIGKILL to every process but this one. Whether there was any.
pub fn kill_everything() -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL).is_ok()
}

/// Reaps a child that has ended, without waiting. `None`: it still runs.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.as_ref().and_then(Exit::from_status))
}

impl Exit {
    fn from_status(status: &WaitIdStatus) -> Option<Self> {
        status.exit_status().map(Self::Status).or_else(|| status.terminating_signal().map(Self::Signal))
    }

    pub fn is_success(self) -> bool {
        self == Self::Status(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => match Signal::from_named_raw(*signal) {
                Some(name) => write!(f, "killed by {name:?}"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// A null-terminated array of the strings' addresses, as execve(2) wants it.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// All that the child needs, made before it exists.
struct Prepared<'a> {
    program: &'a CStr,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    descriptors: Vec<(RawFd, RawFd)>,
}

impl Prepared<'_> {
    /// Runs in the child.
    fn become_program(&self) -> ! {
        Self::reset_signals();
        // SAFETY: no arguments.
        // JUSTIFICATION: the child may only use calls that are async-signal-safe, which the raw ones are.
        unsafe { libc::setsid() };
        if self.place_descriptors() {
            // SAFETY: the program is a C string, both arrays end with a null pointer, and what they point to was made before
            // the clone and is borrowed by the caller.
            // JUSTIFICATION: as above.
            unsafe { libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        }
        // SAFETY: ends the child without running any handler of the parent's.
        // JUSTIFICATION: as above.
        unsafe { libc::_exit(EXIT_NOT_EXECUTED) }
    }

    /// PID 1 blocks all signals and Rust ignores SIGPIPE; neither may be inherited.
    fn reset_signals() {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set.
        // JUSTIFICATION: async-signal-safe.
        unsafe { libc::sigemptyset(none.as_mut_ptr()) };
        // SAFETY: the set is initialised, the old one is not asked for.
        // JUSTIFICATION: async-signal-safe.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
        // SAFETY: SIG_DFL is a valid disposition.
        // JUSTIFICATION: async-signal-safe.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }

    /// First every source to a high number, then each to its place.
    fn place_descriptors(&self) -> bool {
        let mut moved = [0; MAX_DESCRIPTORS];
        for (slot, (source, _)) in moved.iter_mut().zip(&self.descriptors) {
            // SAFETY: a plain system call on numbers.
            // JUSTIFICATION: async-signal-safe.
            *slot = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, MOVED_FROM) };
            if *slot < 0 {
                return false;
            }
        }
        for (source, (_, target)) in moved.iter().zip(&self.descriptors) {
            // SAFETY: a plain system call on numbers.
            // JUSTIFICATION: async-signal-safe.
            if unsafe { libc::dup2(*source, *target) } < 0 {
                return false;
            }
        }
        true
    }
}

// libc has these with a type that does not hold all of them.
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, up to the cgroup (version 2).
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use rustix::pipe::PipeFlags;

    use super::*;
    use crate::memfd;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Vec<CString> {
        ["sh", "-c", script].map(|word| CString::new(word).unwrap()).to_vec()
    }

    fn run(script: &str, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> Child {
        let environment = [c"PATH=/usr/bin:/bin".to_owned()];
        spawn(&Command {
            program: c"/bin/sh",
            arguments: &shell(script),
            environment: &environment,
            descriptors,
            cgroup: None,
        })
        .unwrap()
    }

    #[test]
    fn child_reports_its_exit_status() {
        assert_eq!(run("exit 7", &[]).wait(DEADLINE).unwrap(), Some(Exit::Status(7)));
    }

    #[test]
    fn child_that_runs_on_is_not_waited_for_and_can_be_killed() {
        let child = run("read x", &[(memfd::create("empty").unwrap().as_fd(), 5)]);
        let forever = run("while :; do :; done", &[]);
        assert_eq!(forever.wait(Duration::from_millis(10)).unwrap(), None);
        assert!(!forever.has_ended().unwrap());
        forever.kill().unwrap();
        assert_eq!(forever.wait(DEADLINE).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
        assert!(child.wait(DEADLINE).unwrap().is_some());
    }

    #[test]
    fn wait_ends_when_another_descriptor_can_be_read() {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let child = run("while :; do :; done", &[]);
        rustix::io::write(&writer, b"x").unwrap();
        let start = std::time::Instant::now();
        assert_eq!(child.wait_beside(DEADLINE, [reader.as_fd()]).unwrap(), None);
        assert!(start.elapsed() < DEADLINE);
        child.kill().unwrap();
        assert!(child.wait(DEADLINE).unwrap().is_some());
    }

    #[test]
    fn what_a_child_has_started_is_killed_with_it() {
        // The pipe is closed when the last of them is gone.
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let child = run("sleep 1000 & echo >&5; wait", &[(writer.as_fd(), 5)]);
        drop(writer);
        let mut byte = [0];
        assert_eq!(rustix::io::read(&reader, &mut byte).unwrap(), 1, "it has started");
        child.kill().unwrap();
        let mut closed = [PollFd::new(&reader, PollFlags::IN)];
        assert_eq!(poll(&mut closed, Some(&Timespec::try_from(DEADLINE).unwrap())).unwrap(), 1);
        assert!(child.wait(DEADLINE).unwrap().is_some());
    }

    #[test]
    fn program_that_is_missing_gives_127() {
        let child = spawn(&Command {
            program: c"/nonexistent",
            arguments: &[],
            environment: &[],
            descriptors: &[],
            cgroup: None,
        })
        .unwrap();
        assert_eq!(child.wait(DEADLINE).unwrap(), Some(Exit::Status(EXIT_NOT_EXECUTED)));
    }

    #[test]
    fn descriptors_arrive_under_their_numbers_even_when_they_swap() {
        let mut first = memfd::create("first").unwrap();
        let mut second = memfd::create("second").unwrap();
        // Each is given the number that the other has here.
        let (a, b) = (first.as_raw_fd(), second.as_raw_fd());
        assert!(a < MOVED_FROM && b < MOVED_FROM);
        let child = run(&format!("printf one >&{b}; printf two >&{a}"), &[(first.as_fd(), b), (second.as_fd(), a)]);
        assert_eq!(child.wait(DEADLINE).unwrap(), Some(Exit::Status(0)));
        let mut text = String::new();
        first.rewind().unwrap();
        first.read_to_string(&mut text).unwrap();
        second.rewind().unwrap();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "onetwo");
    }
}
