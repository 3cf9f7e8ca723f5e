//! The last set on DATA, for a start while nobody can tell.
//!
//! As [`keelson_config::kept`] has it, with the set as `set`. Who cannot read it goes on without it.

use std::path::{Path, PathBuf};

use keelson_config::kept::{Form, Kept, KeptError};
use keelson_pki::{Files as _, FilesError, Mode, Owner, StandardFiles};
use serde::{Deserialize, Serialize};

use crate::feed::Set;

/// The account that owns it; a process that is not root writes everything as itself.
const ACCOUNT: u32 = 64002;

#[derive(Debug, thiserror::Error)]
pub enum KeptSetError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("going on without the kept set of API servers {path}")]
    Form { path: PathBuf, source: KeptError },
}

#[derive(Serialize, Deserialize)]
struct KeptSet {
    set: Set,
}

impl Kept for KeptSet {
    const FORM: Form = Form { format: "keelson proxy endpoints", version: 1 };
}

pub fn read(path: &Path) -> Result<Option<Set>, KeptSetError> {
    let Some(content) = StandardFiles.read(path)? else {
        return Ok(None);
    };
    let form = |source| KeptSetError::Form { path: path.to_owned(), source };
    Ok(Some(KeptSet::from_file(&content).map_err(form)?.set))
}

pub fn write(path: &Path, set: &Set) -> Result<(), KeptSetError> {
    let form = |source| KeptSetError::Form { path: path.to_owned(), source };
    let content = KeptSet { set: set.clone() }.to_file().map_err(form)?;
    Ok(StandardFiles.write(path, &content, Mode::PRIVATE, Owner::account(ACCOUNT))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Endpoint;

    #[test]
    fn is_read_as_written_and_anything_else_is_no_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.json");
        assert!(read(&path).unwrap().is_none());
        let endpoint = Endpoint { address: "192.0.2.1:6443".parse().unwrap(), local: false };
        let set = Set { version: 7, authority: "PEM".to_owned(), endpoints: vec![endpoint] };
        write(&path, &set).unwrap();
        assert_eq!(read(&path).unwrap(), Some(set));
        let text = std::fs::read_to_string(&path).unwrap();
        for other in [&text[..text.len() / 2], "", "{}", &text.replace("\"oldestReader\": 1", "\"oldestReader\": 2")] {
            std::fs::write(&path, other).unwrap();
            assert!(read(&path).is_err(), "{other}");
        }
    }
}
