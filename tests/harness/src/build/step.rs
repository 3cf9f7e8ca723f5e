//! Steps of a build and the commands that they run.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{BuildError, FileContext as _};
use super::progress::{Outcome, Progress};

/// How often a running command is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// How much of a failed command's log an error shows.
const TAIL_LINES: usize = 25;

/// Runs steps one after the other and reports them.
pub(crate) struct Steps<'a> {
    progress: &'a mut dyn Progress,
    logs: PathBuf,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(logs: PathBuf, progress: &'a mut dyn Progress) -> Result<Self, BuildError> {
        std::fs::create_dir_all(&logs).at("make", &logs)?;
        Ok(Self { progress, logs })
    }

    /// Does `work` as the step of this name.
    pub(crate) fn step<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Step<'_>) -> Result<(T, Outcome), BuildError>,
    ) -> Result<T, BuildError> {
        let started = Instant::now();
        self.progress.started(name);
        let file_name = name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let log = self.logs.join(format!("{file_name}.log"));
        let mut step = Step { name, started, log, has_run: false, progress: self.progress };
        let (result, outcome) = work(&mut step)?;
        self.progress.finished(name, started.elapsed(), outcome);
        Ok(result)
    }
}

/// One step: its name, its log, and the commands run in it.
pub(crate) struct Step<'a> {
    name: &'a str,
    started: Instant,
    log: PathBuf,
    has_run: bool,
    progress: &'a mut dyn Progress,
}

impl Step<'_> {
    /// Runs a command to its end; all that it prints goes to the step's log.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<(), BuildError> {
        let line = command_line(command);
        if !self.has_run {
            // The log is of one build; while all comes from the cache, the one that made it stays.
            File::create(&self.log).at("make", &self.log)?;
            self.has_run = true;
        }
        let mut log = OpenOptions::new().append(true).open(&self.log).at("open", &self.log)?;
        writeln!(log, "$ {line}").at("write", &self.log)?;
        let begins = log.stream_position().at("examine", &self.log)?;
        let errors = log.try_clone().at("duplicate the handle of", &self.log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| BuildError::Start { step: self.name.to_owned(), program: program.clone(), source })?;

        let (sender, ended) = mpsc::channel();
        // The thread ends with the child; nobody needs to wait for it.
        thread::spawn(move || sender.send(child.wait()));
        let status = loop {
            match ended.recv_timeout(REPORT_INTERVAL) {
                Ok(status) => break status,
                Err(RecvTimeoutError::Timeout) => {
                    let last_line = tail(&self.log, begins, 1).unwrap_or_default();
                    self.progress.running(self.name, self.started.elapsed(), last_line.trim());
                }
                Err(RecvTimeoutError::Disconnected) => break Err(std::io::ErrorKind::BrokenPipe.into()),
            }
        };
        let status = status.map_err(|source| BuildError::Start { step: self.name.to_owned(), program, source })?;
        if status.success() {
            return Ok(());
        }
        Err(BuildError::Command {
            step: self.name.to_owned(),
            command: line,
            status,
            tail: tail(&self.log, begins, TAIL_LINES).unwrap_or_default(),
            log: self.log.clone(),
        })
    }

    /// Runs a command that answers at once, and returns what it printed.
    pub(crate) fn output(&mut self, command: &mut Command) -> Result<String, BuildError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.stdin(Stdio::null()).output().map_err(|source| BuildError::Start {
            step: self.name.to_owned(),
            program,
            source,
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(BuildError::Command {
            step: self.name.to_owned(),
            command: command_line(command),
            status: output.status,
            log: self.log.clone(),
            tail: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// The command as a person would type it, with the variables that were set for it.
fn command_line(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut words: Vec<String> =
        variables.map(|(name, value)| format!("{}={}", name.display(), quoted(&value.to_string_lossy()))).collect();
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(command.get_args().map(|word| quoted(&word.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains([' ', '"', '$', '\'']) { format!("'{word}'") } else { word.to_owned() }
}

/// The last lines of what stands in a log from a position on.
fn tail(log: &Path, from: u64, lines: usize) -> std::io::Result<String> {
    /// Longer than any useful tail, short enough to read at each report.
    const WINDOW: u64 = 16 << 10;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(WINDOW))))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let skipped = all.len().saturating_sub(lines);
    Ok(all.into_iter().skip(skipped).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::progress::Silent;

    #[test]
    fn failed_command_shows_its_line_and_the_end_of_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let mut silent = Silent;
        let mut steps = Steps::new(folder.path().to_path_buf(), &mut silent).unwrap();
        let error = steps
            .step("some step", |step| {
                let script = "for i in $(seq 100); do echo line $i; done; exit 3";
                step.run(Command::new("sh").args(["-c", script]).env("NAME", "a value"))?;
                Ok(((), Outcome::Built))
            })
            .unwrap_err();
        let BuildError::Command { step, command, status, log, tail } = error else { panic!("{error}") };
        assert_eq!((step.as_str(), status.code()), ("some step", Some(3)));
        assert!(command.starts_with("NAME='a value' sh -c "), "{command}");
        assert_eq!(log, folder.path().join("some-step.log"));
        assert!(tail.starts_with("line 76\n") && tail.ends_with("\nline 100"), "{tail}");
    }

    #[test]
    fn program_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut silent = Silent;
        let mut steps = Steps::new(folder.path().to_path_buf(), &mut silent).unwrap();
        let error = steps
            .step("step", |step| Ok((step.run(&mut Command::new("/nonexistent/program"))?, Outcome::Built)))
            .unwrap_err();
        assert_eq!(error.to_string(), "step: cannot start /nonexistent/program");
    }
}
