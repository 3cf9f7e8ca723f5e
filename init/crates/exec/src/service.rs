//! `keelson-exec service`: sets this process up as a service and becomes it.
//!
//! Runs between PID 1's clone3 and the service's own first instruction, single-threaded, already inside its cgroup. It is
//! a program of its own because between clone and exec a copy of PID 1 may not allocate (os-level rule for forks of
//! processes with threads), and because a mistake here ends one child and not PID 1.
//!
//! The order matters: what needs privilege comes before it is given up; the bounding set is cut while `CAP_SETPCAP` is
//! still there; `no_new_privs` is next to last, and the system call filter, which every service
//! has that may gain no privileges, is last. Whatever fails is reported by name on the status pipe ([`keelson_control::child`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use keelson_control::child::{
    ChildJob, JOB_FD, PASSED_AS_FD, PASSED_FD, PASSED_VARIABLE, STATUS_FD, STATUS_GO, STATUS_MAX,
};
use keelson_control::{Account, Capabilities, Limits, ServiceSpec};
use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::{process, thread};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum SetUpError {
    #[error("cannot take over descriptor {number}")]
    Descriptor { number: i32, source: io::Error },
    #[error("cannot read the job")]
    ReadJob(#[source] io::Error),
    #[error("the job is malformed")]
    ParseJob(#[source] serde_json::Error),
    #[error("cannot set {what}")]
    Set { what: &'static str, source: io::Error },
    #[error("cannot execute {program}")]
    Execute { program: String, source: io::Error },
}

/// Returns only if the service could not be executed.
pub(crate) fn run() -> ExitCode {
    let status = take_descriptor(STATUS_FD);
    let error = match &status {
        Ok(status) => become_service(status),
        Err(_) => SetUpError::Descriptor { number: STATUS_FD, source: Errno::BADF.into() },
    };
    if let Ok(status) = status {
        report(&status, &error);
    }
    ExitCode::FAILURE
}

fn become_service(status: &File) -> SetUpError {
    match set_up(status) {
        Ok(spec) => execute(&spec, status),
        Err(error) => error,
    }
}

fn set_up(status: &File) -> Result<ServiceSpec, SetUpError> {
    let descriptor = |number| move |source: io::Error| SetUpError::Descriptor { number, source };
    rustix::io::fcntl_setfd(status, FdFlags::CLOEXEC).map_err(io::Error::from).map_err(descriptor(STATUS_FD))?;
    let mut job = read_job()?;
    if job.passes_descriptor {
        pass_descriptor().map_err(descriptor(PASSED_FD))?;
        job.spec.environment.insert(PASSED_VARIABLE.to_owned(), PASSED_AS_FD.to_string());
    }
    let spec = job.spec;
    set("the working directory", process::chdir("/"))?;
    process::umask(Mode::from_bits_retain(0o022));
    set_limits(&spec.limits)?;
    cut_bounding_set(&spec.capabilities)?;
    set_account(&spec.account)?;
    set_capabilities(&spec)?;
    if spec.no_new_privs {
        confine()?;
    }
    Ok(spec)
}

/// The account of a job that parses what strangers wrote: nobody else's, and it owns nothing.
const PARSER: u32 = 64008;

/// For a job that from here on only parses what it has read: an account without any rights, no capability, nothing to gain by executing
/// a program, and no system call that a daemon has no use for. For this thread, which is the only one of its process.
pub(crate) fn confine_parser() -> Result<(), SetUpError> {
    cut_bounding_set(&Capabilities::none())?;
    set_account(&Account::id(PARSER))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set("capabilities", thread::set_capabilities(None, sets))?;
    confine()
}

/// Next to last and last.
fn confine() -> Result<(), SetUpError> {
    set("no_new_privs", thread::set_no_new_privs(true))?;
    keelson_sys::seccomp::confine_daemon().map_err(|source| SetUpError::Set { what: "the system call filter", source })
}

fn set(what: &'static str, result: rustix::io::Result<()>) -> Result<(), SetUpError> {
    result.map_err(|source| SetUpError::Set { what, source: source.into() })
}

/// Takes over one of our own descriptors by its number.
fn take_descriptor(number: i32) -> io::Result<File> {
    keelson_sys::descriptor::inherited(number).map(File::from)
}

fn read_job() -> Result<ChildJob, SetUpError> {
    let mut file = take_descriptor(JOB_FD).map_err(|source| SetUpError::Descriptor { number: JOB_FD, source })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(SetUpError::ReadJob)?;
    serde_json::from_slice(&bytes).map_err(SetUpError::ParseJob)
}

/// The job's descriptor is closed by now, so its number is free.
fn pass_descriptor() -> io::Result<()> {
    let passed = take_descriptor(PASSED_FD)?;
    keelson_sys::descriptor::place(passed.as_fd(), PASSED_AS_FD)
}

fn set_limits(limits: &Limits) -> Result<(), SetUpError> {
    if let Some(count) = limits.nofile {
        let limit = Rlimit { current: Some(count), maximum: Some(count) };
        set("the limit of open files", process::setrlimit(Resource::Nofile, limit))?;
    }
    if let Some(nice) = limits.nice {
        set("nice", process::setpriority_process(None, i32::from(nice)))?;
    }
    if let Some(adjustment) = limits.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", adjustment.to_string())
            .map_err(|source| SetUpError::Set { what: "oom_score_adj", source })?;
    }
    Ok(())
}

/// The kept capabilities as bits, or `None` for all.
fn kept(capabilities: &Capabilities) -> Option<CapabilitySet> {
    match capabilities {
        Capabilities::All => None,
        Capabilities::Only(list) => Some(list.iter().fold(CapabilitySet::empty(), |set, capability| {
            set | CapabilitySet::from_bits_retain(1 << capability.number())
        })),
    }
}

/// Takes everything that is not kept out of the bounding set, known to us or not, so that nothing the service executes
/// can have it.
fn cut_bounding_set(capabilities: &Capabilities) -> Result<(), SetUpError> {
    let Some(kept) = kept(capabilities) else { return Ok(()) };
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no more of them.
            Err(Errno::INVAL) => break,
            Err(error) => return set("the capability bounding set", Err(error)),
        }
    }
    Ok(())
}

/// Groups first: they need the privilege that the user id takes away.
fn set_account(account: &Account) -> Result<(), SetUpError> {
    let groups: Vec<_> = account.groups.iter().map(|group| thread::Gid::from_raw(*group)).collect();
    let uid = thread::Uid::from_raw(account.uid);
    let gid = thread::Gid::from_raw(account.gid);
    set("supplementary groups", thread::set_thread_groups(&groups))?;
    set("the group", thread::set_thread_res_gid(gid, gid, gid))?;
    // Permitted capabilities survive the change of user, to be cut down below (capabilities(7), SECBIT_KEEP_CAPS).
    set("keep_caps", thread::set_keep_capabilities(true))?;
    set("the user", thread::set_thread_res_uid(uid, uid, uid))
}

/// Root gets on exec whatever the bounding set leaves. Any other user gets nothing, unless it is in the ambient set.
fn set_capabilities(spec: &ServiceSpec) -> Result<(), SetUpError> {
    let Some(kept) = kept(&spec.capabilities) else { return Ok(()) };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    set("capabilities", thread::set_capabilities(None, sets))?;
    if spec.account.uid != 0 {
        for capability in kept.iter() {
            set("ambient capabilities", thread::configure_capability_in_ambient_set(capability, true))?;
        }
    }
    Ok(())
}

/// Says that all is set up and executes the program.
fn execute(spec: &ServiceSpec, mut status: &File) -> SetUpError {
    // A lost byte cannot be helped here; PID 1 then sees a child that never said go.
    let _ = status.write_all(&[STATUS_GO]);
    let source = Command::new(&spec.program).args(&spec.arguments).env_clear().envs(&spec.environment).exec();
    SetUpError::Execute { program: spec.program.display().to_string(), source }
}

fn report(mut status: &File, error: &SetUpError) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.truncate(text.floor_char_boundary(STATUS_MAX - 1));
    let _ = status.write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Rights are a thread's: one of this process gives them up, and the rest of it goes on.
    #[test]
    fn parser_has_no_rights_left_and_goes_on() {
        let root = process::geteuid().is_root();
        assert!(root || std::env::var_os("KEELSON_TESTS_ROOT").is_none(), "KEELSON_TESTS_ROOT promises root");
        if !root {
            println!("skipped: only root has rights to give up");
            return;
        }
        let given_up = thread::spawn(|| {
            confine_parser().unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let opened = File::options().write(true).open("/proc/sys/kernel/hostname");
            let read = File::open("/etc/shadow");
            (status, opened.is_err() && read.is_err(), std::fs::read_to_string("/proc/version").is_ok())
        });
        let (status, refused, reads_what_all_may) = given_up.join().unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let account = PARSER.to_string();
        assert!(line("Uid:").split_whitespace().all(|uid| uid == account), "{status}");
        assert!(line("Gid:").split_whitespace().all(|gid| gid == account), "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(line(set), "0000000000000000", "{set}");
        }
        assert_eq!((line("Groups:"), line("NoNewPrivs:"), line("Seccomp:")), ("", "1", "2"));
        assert!(refused && reads_what_all_may);
        assert!(process::geteuid().is_root(), "the other threads keep theirs");
    }
}
