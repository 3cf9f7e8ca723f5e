//! What a machine has printed on its serial console.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::{self, Timeout};

/// Enough of the console's end to see why a machine is stuck.
const TAIL_LINES: usize = 30;

/// The console's log, read from the machine's start.
#[derive(Debug, Clone)]
pub struct Console {
    log: PathBuf,
}

/// A wait that failed, with the console's end.
#[derive(Debug, thiserror::Error)]
#[error("{timeout}\nthe console's last lines ({log}):\n{tail}", log = log.display())]
pub struct Silence {
    #[source]
    pub timeout: Timeout,
    pub log: PathBuf,
    pub tail: String,
}

impl Console {
    pub fn new(log: &Path) -> Self {
        Self { log: log.to_owned() }
    }

    /// All that was printed so far, without carriage returns and escape sequences.
    pub fn text(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        plain(&String::from_utf8_lossy(&bytes))
    }

    /// The length of [`Self::text`]: a mark behind which a later wait begins.
    pub fn mark(&self) -> usize {
        self.text().len()
    }

    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }

    pub fn last_line(&self) -> String {
        self.text().lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing printed yet").to_owned()
    }

    /// Waits for a whole line that contains `pattern`, printed behind `mark`.
    pub fn wait_for(&self, pattern: &str, mark: usize, deadline: Duration) -> Result<String, Silence> {
        let awaited = format!("the console to print {pattern:?}");
        wait::until(&awaited, deadline, || {
            let text = self.text();
            let new = text.get(mark..).unwrap_or_default();
            let whole = new.rfind('\n').and_then(|end| new.get(..end)).unwrap_or_default();
            whole.lines().find(|line| line.contains(pattern)).map(str::to_owned).ok_or_else(|| self.last_line())
        })
        .map_err(|timeout| self.explain(timeout))
    }

    /// Adds the console's end to a failed wait.
    pub fn explain(&self, timeout: Timeout) -> Silence {
        Silence { timeout, log: self.log.clone(), tail: self.tail() }
    }
}

/// Drops carriage returns and CSI sequences (ECMA-48), which firmware and kernels print to be seen on terminals.
fn plain(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {}
            '\u{1b}' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                } else {
                    characters.next();
                }
            }
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_only_terminals_need() {
        assert_eq!(plain("\u{1b}[2J\u{1b}[01;01Hboot\r\n\u{1b}cnext"), "boot\nnext");
    }

    #[test]
    fn finds_a_whole_line_behind_the_mark() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        std::fs::write(&log, "store ready\nstore ready in 2 s\nstore re").unwrap();
        let console = Console::new(&log);
        let mark = "store ready\n".len();
        assert_eq!(console.wait_for("ready", mark, Duration::ZERO).unwrap(), "store ready in 2 s");
        let silence = console.wait_for("stopped", 0, Duration::ZERO).unwrap_err().to_string();
        assert!(silence.contains("store re") && silence.contains("\"stopped\""), "{silence}");
    }
}
