//! What was said on the command line, in the environment, or in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Kind, file, find};

/// Values by flag name, each with where it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    values: BTreeMap<&'static str, Word>,
    unrecognized: Vec<String>,
    pub help: bool,
    pub version: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub value: String,
    pub source: String,
}

#[derive(Debug, thiserror::Error)]
pub enum WordsError {
    #[error("{argument}: this is no flag of keelson-store{}", suggestion.map_or(String::new(), |name| format!("; did you mean --{name}?")))]
    Unknown { argument: String, suggestion: Option<&'static str> },
    #[error("{argument}: arguments are flags, which begin with --")]
    NoFlag { argument: String },
    #[error("--{name}: a value is missing")]
    NoValue { name: &'static str },
    #[error("{}: the configuration file cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {reason}", path.display())]
    Parse { path: PathBuf, reason: String },
    #[error("{}: {key} is no flag of keelson-store{}", path.display(), suggestion.map_or(String::new(), |name| format!("; did you mean {name}?")))]
    Key { path: PathBuf, key: String, suggestion: Option<&'static str> },
}

impl Words {
    /// From arguments (without the program's name) and environment, or from the file that they name.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, WordsError> {
        let mut words = Self::default();
        for (name, value) in environment {
            words.environment(&name, value);
        }
        words.arguments(arguments.into_iter())?;
        if words.help || words.version {
            return Ok(words);
        }
        match words.get("config-file").map(|word| PathBuf::from(&word.value)) {
            Some(path) => Self::file(&path),
            None => Ok(words),
        }
    }

    fn environment(&mut self, name: &str, value: String) {
        let Some(flag) = name.strip_prefix("ETCD_") else { return };
        match find(&flag.to_ascii_lowercase().replace('_', "-")) {
            Some(flag) => _ = self.values.insert(flag.name, Word { value, source: name.to_owned() }),
            // etcd too does not take it amiss: ETCD_ is also used by what is around it.
            None => self.unrecognized.push(name.to_owned()),
        }
    }

    fn arguments(&mut self, mut arguments: impl Iterator<Item = String>) -> Result<(), WordsError> {
        while let Some(argument) = arguments.next() {
            let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                return Err(WordsError::NoFlag { argument });
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            match name {
                "help" | "h" => self.help = true,
                "version" => self.version = true,
                _ => self.flag(name, value, &argument, &mut arguments)?,
            }
        }
        Ok(())
    }

    fn flag(
        &mut self,
        name: &str,
        value: Option<String>,
        argument: &str,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), WordsError> {
        let Some(flag) = find(name) else {
            return Err(WordsError::Unknown { argument: argument.to_owned(), suggestion: closest(name) });
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Switch | Kind::IgnoredSwitch) => "true".to_owned(),
            // The one switch among them, and nobody gives the others no value.
            (None, Kind::Refused) if flag.name == "force-new-cluster" => "true".to_owned(),
            (None, _) => rest.next().ok_or(WordsError::NoValue { name: flag.name })?,
        };
        self.values.insert(flag.name, Word { value, source: format!("--{name}") });
        Ok(())
    }

    fn file(path: &Path) -> Result<Self, WordsError> {
        let content =
            std::fs::read_to_string(path).map_err(|source| WordsError::Read { path: path.to_owned(), source })?;
        let said = file::parse(&content).map_err(|reason| WordsError::Parse { path: path.to_owned(), reason })?;
        let mut words = Self::default();
        for (name, value) in said {
            let Some(flag) = find(&name) else {
                let suggestion = closest(&name);
                return Err(WordsError::Key { path: path.to_owned(), key: name, suggestion });
            };
            words.values.insert(flag.name, Word { value, source: format!("{}: {name}", path.display()) });
        }
        Ok(words)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Word> {
        self.values.get(name)
    }

    /// The first thing said that is refused, with what to do instead.
    pub(super) fn refused(&self) -> Option<(&str, &'static str)> {
        self.values.iter().find_map(|(name, word)| {
            let flag = find(name).filter(|flag| flag.kind == Kind::Refused)?;
            let off = matches!(word.value.as_str(), "" | "false" | "0" | "f" | "F" | "FALSE" | "False");
            (!off).then_some((word.source.as_str(), flag.help))
        })
    }

    /// Variables with etcd's prefix that name no flag.
    pub fn unrecognized(&self) -> &[String] {
        &self.unrecognized
    }

    /// What was said and has no meaning here.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        let ignored =
            |name: &str| find(name).is_some_and(|flag| matches!(flag.kind, Kind::Ignored | Kind::IgnoredSwitch));
        self.values.iter().filter(move |(name, _)| ignored(name)).map(|(_, word)| word.source.as_str())
    }
}

/// The flag whose name differs in the fewest letters, if that is few.
fn closest(name: &str) -> Option<&'static str> {
    let distance = |flag: &&'static str| edit_distance(name.as_bytes(), flag.as_bytes());
    super::FLAGS
        .iter()
        .map(|flag| flag.name)
        .min_by_key(distance)
        .filter(|flag| distance(flag) <= (name.len() / 3).max(2))
}

fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b) {
            let above = *slot;
            *slot = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            diagonal = above;
            left = *slot;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
