//! Lines for the console that a service leaves in a file: keelson-cluster's address and fingerprint.
//!
//! The file is replaced by rename; its text is shown when it differs from what was shown before.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// More than a screen is not for a console.
const TEXT_MAX: u64 = 2048;

#[derive(Debug)]
pub(super) struct ConsoleFile {
    path: PathBuf,
    shown: String,
}

impl ConsoleFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, shown: String::new() }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The lines, if they are not those that were returned last.
    pub(super) fn new_lines(&mut self) -> Vec<String> {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|file| file.take(TEXT_MAX).read_to_string(&mut text));
        if read.is_err() || text == self.shown {
            return Vec::new();
        }
        self.shown = text;
        self.shown.lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_once_and_again_when_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let mut file = ConsoleFile::new(path.clone());
        assert!(file.new_lines().is_empty());
        std::fs::write(&path, "a\nb\n").unwrap();
        assert_eq!(file.new_lines(), ["a", "b"]);
        assert!(file.new_lines().is_empty());
        std::fs::write(&path, "c").unwrap();
        assert_eq!(file.new_lines(), ["c"]);
        assert_eq!(file.shown(), "c");
    }
}
