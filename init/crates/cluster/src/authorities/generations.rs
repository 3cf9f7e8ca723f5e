//! Which generation of authorities certifies, and whether the other one is believed.
//!
//! `/state/pki/authorities/generations.json` is as [`keelson_config::kept`] has it, with the fields of [`Believed`]. It is one file, so that a power cut leaves a control plane in one phase of an
//! exchange or in the next. Where it is missing, the first place certifies and the other is not believed.

use std::path::{Path, PathBuf};

use keelson_config::kept::{Form, Kept};
use keelson_pki::{Files, FilesError, Mode, Owner};
use serde::{Deserialize, Serialize};

use super::AuthoritiesError;

const FILE: &str = "generations.json";

/// Where a generation lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Slot {
    #[default]
    First,
    Second,
}

impl Slot {
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The first lies in the directory of all authorities itself.
    pub fn directory(self, authorities: &Path) -> PathBuf {
        match self {
            Self::First => authorities.to_owned(),
            Self::Second => authorities.join("second"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Believed {
    /// Where the generation is that certifies.
    pub certifies: Slot,
    /// Whether certificates of the other generation are believed.
    pub other: bool,
}

impl Kept for Believed {
    const FORM: Form = Form { format: "keelson authorities", version: 1 };
}

impl Believed {
    pub fn read(files: &dyn Files, authorities: &Path) -> Result<Self, AuthoritiesError> {
        let Some(content) = files.read(&authorities.join(FILE))? else { return Ok(Self::default()) };
        Ok(Self::from_file(&content)?)
    }

    pub fn save(self, files: &dyn Files, authorities: &Path) -> Result<(), AuthoritiesError> {
        files.update(&authorities.join(FILE), &self.to_file()?, Mode::PRIVATE, Owner::ROOT)?;
        Ok(())
    }

    pub fn forget(files: &dyn Files, authorities: &Path) -> Result<(), FilesError> {
        files.remove(&authorities.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorities::{Authorities, Generation};
    use crate::identity::ClusterId;
    use crate::membership::tests::{MemoryFiles, clock};
    use keelson_config::KeptError;
    use keelson_pki::AuthorityKind;

    #[test]
    fn one_generation_certifies_and_the_other_is_believed_or_not() {
        let (files, directory, cluster) = (MemoryFiles::default(), Path::new("/a"), ClusterId::generate());
        let first = Authorities::create(&files, directory, &cluster, clock()).unwrap();
        let second = Generation::create(&files, &Slot::Second.directory(directory), &cluster, clock()).unwrap();
        let read = || Authorities::read(&files, directory).unwrap();
        let kind = AuthorityKind::Api;
        let own = first.get(kind).certificate();
        assert_eq!(
            read().anchors(kind).iter().collect::<Vec<_>>(),
            [own],
            "a second one is there, and nothing says so"
        );
        for (certifies, other) in [(Slot::First, true), (Slot::Second, true), (Slot::Second, false)] {
            Believed { certifies, other }.save(&files, directory).unwrap();
            let read = read();
            let (certifying, believed) = match certifies {
                Slot::First => (own, second.get(kind).certificate()),
                Slot::Second => (second.get(kind).certificate(), own),
            };
            assert_eq!(read.get(kind).certificate(), certifying);
            let expected: Vec<_> = std::iter::once(certifying).chain(other.then_some(believed)).collect();
            assert_eq!(read.anchors(kind).iter().collect::<Vec<_>>(), expected);
        }
        Authorities::forget(&files, directory).unwrap();
        assert!(files.names().is_empty(), "{:?}", files.names());
    }

    #[test]
    fn a_file_of_a_later_release_or_of_something_else_is_refused() {
        let (files, directory) = (MemoryFiles::default(), Path::new("/a"));
        let write =
            |text: &str| files.write(&directory.join(FILE), text.as_bytes(), Mode::PRIVATE, Owner::ROOT).unwrap();
        write(r#"{"format":"keelson authorities","version":2,"oldestReader":2,"certifies":"third","other":false}"#);
        let form = || match Believed::read(&files, directory) {
            Err(AuthoritiesError::Generations(error)) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(form(), KeptError::TooNew { oldest_reader: 2, .. }));
        write(r#"{"format":"other","version":1,"oldestReader":1,"certifies":"first","other":false}"#);
        assert!(matches!(form(), KeptError::Other { .. }));
    }
}
