//! Where members may be found that are not where the membership says: all of them may have got other addresses while none ran.
//!
//! The file (`--peer-hints-file`) is one JSON object: by a member's name, the peer URLs at which somebody has seen it. It is read for each
//! connection that is made, and its URLs are tried first. Nobody is believed for it: members' certificates name them, so a wrong hint costs
//! the time of an attempt.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// More than a member has addresses. Each takes its part of an attempt's time.
const URLS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Hints {
    path: PathBuf,
    /// What was wrong with the file when it was read last.
    told: Mutex<Option<String>>,
}

impl Hints {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, told: Mutex::default() }
    }

    /// The URLs at which to try the member of this name, the most likely ones first. `known` are those of the membership.
    pub(super) fn urls(&self, name: &str, known: &[String]) -> Vec<String> {
        let mut urls = self.read().remove(name).unwrap_or_default();
        urls.truncate(URLS_MAX);
        urls.extend(known.iter().filter(|url| !urls.contains(url)).cloned().collect::<Vec<_>>());
        urls
    }

    /// A file of a few hundred bytes in memory, written by rename.
    fn read(&self) -> BTreeMap<String, Vec<String>> {
        let problem = match std::fs::read(&self.path) {
            Ok(content) => match serde_json::from_slice(&content) {
                Ok(hints) => {
                    self.tell(None);
                    return hints;
                }
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.tell(None);
                return BTreeMap::new();
            }
            Err(error) => error.to_string(),
        };
        self.tell(Some(problem));
        BTreeMap::new()
    }

    fn tell(&self, problem: Option<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(*problem)) {
            tracing::warn!(file = %self.path.display(), problem, "--peer-hints-file cannot be read");
        }
        *told = problem;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_go_before_what_is_known_and_a_file_that_is_none_gives_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hints.json");
        let hints = Hints::new(path.clone());
        let known = ["https://192.0.2.1:2380".to_owned()];
        assert_eq!(hints.urls("a", &known), known);
        std::fs::write(&path, r#"{"a": ["https://192.0.2.9:2380", "https://192.0.2.1:2380"], "b": []}"#).unwrap();
        assert_eq!(hints.urls("a", &known), ["https://192.0.2.9:2380", "https://192.0.2.1:2380"]);
        assert_eq!(hints.urls("b", &known), known);
        assert_eq!(hints.urls("c", &known), known);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(hints.urls("a", &known), known);
        assert!(hints.told.lock().unwrap().as_ref().unwrap().contains("EOF"));
        let many: Vec<_> = (0..9).map(|number| format!("https://192.0.2.{number}:2380")).collect();
        std::fs::write(&path, serde_json::json!({ "a": many }).to_string()).unwrap();
        assert_eq!(hints.urls("a", &known).len(), URLS_MAX, "what is known is among them");
    }
}
