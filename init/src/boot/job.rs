//! Running a keelson-exec job: a child, a deadline, an answer.
//!
//! A child that does not end in time is killed and then left alone: if it sleeps in the kernel for a dead disk, SIGKILL does
//! not end it, and PID 1 must not sleep with it. The reaper gets it whenever it ends. One that has answered is as good as
//! ended: another disk than the one that matters may hold it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use keelson_job::{ANSWERED_FD, Fault, PROGRAM, PROGRAM_OF_FIRST_STAGE, REQUEST_FD, RESULT_FD, Request};
use keelson_sys::memfd;
use keelson_sys::process::{self, Child, Command, Exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::boot::CGROUP_ROOT;
use crate::console::Console;
use crate::signals;
use crate::vitals::Vitals;

/// How often a job that takes long is mentioned.
const PATIENCE_INTERVAL: Duration = Duration::from_secs(10);
/// What a killed child gets to end.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// From a child's answer to its end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Where jobs run, below the root of the cgroups, so that what one of them makes of foreign bytes costs neither PID 1 nor services.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    /// Its files, and what is written to them.
    pub(crate) bounds: &'static [(&'static str, &'static str)],
}

/// mkfs and e2fsck need memory by the size of the disk: theirs has no bound.
const DISKS: Group = Group { name: "disks", bounds: &[("pids.max", "64")] };
/// All other jobs read files of at most a mebibyte each.
const OTHERS: Group = Group {
    name: "jobs",
    bounds: &[("memory.max", "268435456"), ("memory.swap.max", "0"), ("memory.oom.group", "1"), ("pids.max", "32")],
};
/// It takes the processors' time that nobody else wants.
const READ_AHEAD: Group = Group { name: "read-ahead", bounds: &[("cpu.idle", "1"), ("pids.max", "4")] };
pub(crate) const GROUPS: [&Group; 3] = [&DISKS, &OTHERS, &READ_AHEAD];

/// More than any report holds.
const MAX_RESULT_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, Error)]
pub(crate) enum JobError {
    #[error("cannot write the request for {job}")]
    Request { job: &'static str, source: io::Error },
    #[error("cannot start {PROGRAM} {job}")]
    Start { job: &'static str, source: io::Error },
    #[error("cannot wait for {PROGRAM} {job}")]
    Wait { job: &'static str, source: io::Error },
    #[error("{PROGRAM} {job} did not end within {} s", limit.as_secs())]
    TimedOut { job: &'static str, limit: Duration },
    /// The job was cut short.
    #[error("{} was asked for", .0.action.words())]
    Asked(signals::Request),
    #[error("{PROGRAM} {job} ended with {exit} and left no answer")]
    NoAnswer { job: &'static str, exit: Exit },
    /// Somebody else reaped it.
    #[error("{PROGRAM} {job} ended and left no answer")]
    Died { job: &'static str },
    #[error("cannot read the answer of {PROGRAM} {job}")]
    Answer { job: &'static str, source: io::Error },
    /// The job did its work and says no; its message is for a person and stands for itself.
    #[error("{message}")]
    Refused { message: String },
}

/// Runs one job to its end or its deadline.
pub(crate) fn run<T: DeserializeOwned>(console: &mut Console, request: &Request) -> Result<T, JobError> {
    run_program(console, PROGRAM, request, request.deadline(), None)
}

/// The same in the boot, where a job may take long. An armed watchdog is fed meanwhile: the job has its deadline, and PID 1 is alive as
/// long as it waits here. Whoever asks for the machine's end does not wait for it.
pub(crate) fn run_in_boot<T: DeserializeOwned>(
    console: &mut Console,
    request: &Request,
    vitals: &mut Vitals,
) -> Result<T, JobError> {
    run_program(console, PROGRAM, request, request.deadline(), Some(vitals))
}

/// The same before there is a root.
pub(crate) fn run_in_first_stage<T: DeserializeOwned>(
    console: &mut Console,
    request: &Request,
    vitals: &mut Vitals,
) -> Result<T, JobError> {
    run_program(console, PROGRAM_OF_FIRST_STAGE, request, request.deadline(), Some(vitals))
}

fn run_program<T: DeserializeOwned>(
    console: &mut Console,
    program: &str,
    request: &Request,
    limit: Duration,
    vitals: Option<&mut Vitals>,
) -> Result<T, JobError> {
    let job = request.name();
    let mut running = start(program, request)?;
    let exit = wait(console, &running, job, limit, vitals).inspect_err(|_| {
        // Failing to kill leaves it as it is.
        let _ = running.child.kill();
        let _ = running.child.wait(KILL_LIMIT);
    })?;
    if exit.is_none() {
        console.warn(job, "it has answered and does not end: a disk that does not answer may hold it");
        let _ = running.child.kill();
    }
    read_result(&mut running.result, job, exit)
}

#[derive(Debug)]
struct Running {
    child: Child,
    result: File,
    /// Whose other end the child closes behind its answer.
    answered: OwnedFd,
}

impl Running {
    fn has_answered(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.answered, PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

fn start(program: &str, request: &Request) -> Result<Running, JobError> {
    let job = request.name();
    let wrong_request = |source| JobError::Request { job, source };
    let text = serde_json::to_vec(request).map_err(|error| wrong_request(error.into()))?;
    let input = memfd::sealed("request", &text).map_err(wrong_request)?;
    let result = memfd::create("result").map_err(wrong_request)?;
    let words = [program, job].map(CString::new).into_iter().collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|error| wrong_request(error.into()))?;
    let program = words.first().ok_or_else(|| wrong_request(io::ErrorKind::InvalidInput.into()))?;
    // Standard streams: the jobs speak by their answer alone, and nothing of ours may hold a terminal.
    let null = File::options().read(true).write(true).open("/dev/null").map_err(wrong_request)?;
    let (answered, answering) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| wrong_request(error.into()))?;
    let group = group(request);
    let child = process::spawn(&Command {
        program,
        arguments: &words,
        environment: &[c"PATH=/usr/bin".to_owned()],
        descriptors: &[
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (null.as_fd(), 2),
            (result.as_fd(), RESULT_FD),
            (input.as_fd(), REQUEST_FD),
            (answering.as_fd(), ANSWERED_FD),
        ],
        cgroup: group.as_ref().map(AsFd::as_fd),
    });
    Ok(Running { child: child.map_err(|source| JobError::Start { job, source })?, result, answered })
}

/// The job's cgroup. The first stage has none yet.
fn group(request: &Request) -> Option<File> {
    let group = match request {
        Request::Disks { .. } => DISKS,
        Request::ReadAhead { .. } => READ_AHEAD,
        _ => OTHERS,
    };
    File::open(Path::new(CGROUP_ROOT).join(group.name)).ok()
}

/// Waits, and says so when it takes long. `None`: it has answered and does not end.
fn wait(
    console: &mut Console,
    running: &Running,
    job: &'static str,
    limit: Duration,
    mut vitals: Option<&mut Vitals>,
) -> Result<Option<Exit>, JobError> {
    let failed = |source| JobError::Wait { job, source };
    let start = Instant::now();
    let mut mention_at = PATIENCE_INTERVAL;
    loop {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(JobError::TimedOut { job, limit });
        }
        let slice = left.min(PATIENCE_INTERVAL);
        let exit = match vitals.as_deref_mut() {
            Some(vitals) => wait_attentively(running, job, slice, vitals)?,
            None => running.child.wait_beside(slice, [running.answered.as_fd()]).map_err(failed)?,
        };
        if exit.is_some() {
            return Ok(exit);
        }
        if running.has_answered() {
            return running.child.wait(END_LIMIT).map_err(failed);
        }
        console.flush();
        if start.elapsed() >= mention_at {
            mention_at += PATIENCE_INTERVAL;
            console.info(
                job,
                format_args!("still at work after {} s (limit {} s)", start.elapsed().as_secs(), limit.as_secs()),
            );
        }
    }
}

/// Waits at most so long, and no longer than until something else is to be done.
fn wait_attentively(
    running: &Running,
    job: &'static str,
    at_most: Duration,
    vitals: &mut Vitals,
) -> Result<Option<Exit>, JobError> {
    vitals.feed();
    if let Some(request) = vitals.requests.pending() {
        return Err(JobError::Asked(request));
    }
    let at_most = at_most.min(vitals.feeding_interval());
    let beside = vitals.requests.descriptors().chain([running.answered.as_fd()]);
    running.child.wait_beside(at_most, beside).map_err(|source| JobError::Wait { job, source })
}

/// A job that nobody waits for. For jobs without a report, started from the event loop.
#[derive(Debug)]
pub(crate) struct Background {
    job: &'static str,
    child: Child,
    result: File,
}

impl Background {
    pub(crate) fn start(request: &Request) -> Result<Self, JobError> {
        let Running { child, result, .. } = start(PROGRAM, request)?;
        Ok(Self { job: request.name(), child, result })
    }

    /// `None` while it is at work. It is reaped by whoever reaps orphans.
    pub(crate) fn answer(&mut self) -> Option<Result<(), JobError>> {
        match self.child.has_ended() {
            Ok(false) => None,
            Ok(true) => Some(read_result(&mut self.result, self.job, None)),
            Err(source) => Some(Err(JobError::Wait { job: self.job, source })),
        }
    }
}

fn read_result<T: DeserializeOwned>(result: &mut File, job: &'static str, exit: Option<Exit>) -> Result<T, JobError> {
    let answer = read_answer(result).map_err(|source| JobError::Answer { job, source })?;
    if answer.is_empty() {
        return Err(exit.map_or(JobError::Died { job }, |exit| JobError::NoAnswer { job, exit }));
    }
    let answer: Result<T, Fault> =
        serde_json::from_slice(&answer).map_err(|error| JobError::Answer { job, source: error.into() })?;
    answer.map_err(|fault| JobError::Refused { message: fault.message })
}

fn read_answer(result: &mut File) -> io::Result<Vec<u8>> {
    result.rewind()?;
    let mut text = Vec::new();
    result.take(MAX_RESULT_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, PoisonError};
    use std::thread;

    use keelson_sys::watchdog::Watchdog;

    use super::*;
    use crate::signals::tests::{POWER_OFF, with_a_button};

    const LIMIT: Duration = Duration::from_secs(20);

    /// One at a time: a child that another test has just cloned would hold a script open for writing, and a script that
    /// is open for writing cannot be executed.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Runs a script in keelson-exec's place.
    fn run_script(script: &str, limit: Duration) -> Result<String, JobError> {
        run_with(script, limit, None)
    }

    fn run_with(script: &str, limit: Duration, vitals: Option<&mut Vitals>) -> Result<String, JobError> {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        run_program(&mut Console::default(), program.to_str().unwrap(), &Request::UserImages, limit, vitals)
    }

    #[test]
    fn watchdog_is_fed_while_a_job_is_waited_for() {
        let device = tempfile::NamedTempFile::new().unwrap();
        // This one does not tell its timeout, so it is fed each second.
        let mut vitals = Vitals { watchdog: Some(Watchdog::arm(device.path()).unwrap()), ..Vitals::default() };
        run_with(r#"sleep 2.5; printf '{"Ok":""}' >&3"#, LIMIT, Some(&mut vitals)).unwrap();
        assert!(fs::metadata(device.path()).unwrap().len() > 1);
    }

    #[test]
    fn job_is_cut_short_when_the_end_of_the_machine_is_asked_for() {
        let (requests, button) = with_a_button();
        let mut vitals = Vitals { requests, ..Vitals::default() };
        let start = Instant::now();
        let pressing = thread::spawn(move || {
            thread::park_timeout(Duration::from_millis(200));
            button.press();
        });
        let error = run_with("while :; do :; done", LIMIT, Some(&mut vitals)).unwrap_err();
        assert!(matches!(error, JobError::Asked(POWER_OFF)), "{error:?}");
        // The press is heard, and not found when the job is mentioned for the first time.
        assert!(start.elapsed() < PATIENCE_INTERVAL);
        pressing.join().unwrap();
    }

    #[test]
    fn answer_comes_back() {
        assert_eq!(run_script(r#"printf '{"Ok":"%s"}' "$1" >&3"#, LIMIT).unwrap(), "user-images");
    }

    #[test]
    fn request_arrives() {
        let answer =
            run_script(r#"IFS= read -r line <&4; [ "$line" = '"user-images"' ] && printf '{"Ok":"same"}' >&3"#, LIMIT);
        assert_eq!(answer.unwrap(), "same");
    }

    /// As one does of which a thread sleeps in the kernel.
    #[test]
    fn job_that_has_answered_and_does_not_end_is_not_waited_for() {
        let start = Instant::now();
        let script = r#"printf '{"Ok":"done"}' >&3; exec 5>&-; while :; do :; done"#;
        assert_eq!(run_script(script, Duration::from_mins(10)).unwrap(), "done");
        assert!(start.elapsed() < PATIENCE_INTERVAL);
    }

    #[test]
    fn refusal_is_the_jobs_own_words() {
        let error = run_script(r#"printf '{"Err":{"message":"vda holds data"}}' >&3"#, LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "vda holds data");
    }

    #[test]
    fn job_that_hangs_is_given_up_at_its_deadline() {
        let start = Instant::now();
        let error = run_script("while :; do :; done", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, JobError::TimedOut { .. }));
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn job_that_dies_without_an_answer_is_told_from_one_that_refuses() {
        let error = run_script("exit 3", LIMIT).unwrap_err();
        assert!(error.to_string().contains("ended with exit status 3"), "{error}");
    }
}
