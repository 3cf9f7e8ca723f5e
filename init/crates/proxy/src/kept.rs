//! The last set on DATA, for a start while nobody can tell.
//!
//! One JSON object: `format` (always `keelson proxy endpoints`), `version`, `oldestReader`, `set`. A release that does not
//! reach `oldestReader`, or finds something else, goes on without it.

use std::path::{Path, PathBuf};

use keelson_pki::{Files as _, FilesError, Mode, Owner, StandardFiles};
use serde::{Deserialize, Serialize};

use crate::feed::Set;

const FORMAT: &str = "keelson proxy endpoints";
const VERSION: u32 = 1;
/// The account that owns it; a process that is not root writes everything as itself.
const ACCOUNT: u32 = 64002;

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("the kept set of API servers {path} cannot be read; going on without it")]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("the kept set of API servers {path} is of another form; going on without it")]
    Foreign { path: PathBuf },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptFile {
    format: String,
    version: u32,
    oldest_reader: u32,
    set: Set,
}

pub fn read(path: &Path) -> Result<Option<Set>, KeptError> {
    let Some(content) = StandardFiles.read(path)? else {
        return Ok(None);
    };
    let malformed = |source| KeptError::Malformed { path: path.to_owned(), source };
    let file: KeptFile = serde_json::from_slice(&content).map_err(malformed)?;
    if file.format != FORMAT || file.oldest_reader > VERSION {
        return Err(KeptError::Foreign { path: path.to_owned() });
    }
    Ok(Some(file.set))
}

pub fn write(path: &Path, set: &Set) -> Result<(), KeptError> {
    let file = KeptFile { format: FORMAT.to_owned(), version: VERSION, oldest_reader: VERSION, set: set.clone() };
    let malformed = |source| KeptError::Malformed { path: path.to_owned(), source };
    let content = serde_json::to_vec(&file).map_err(malformed)?;
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
        for other in [&text[..text.len() / 2], "", "{}", &text.replace("\"oldestReader\":1", "\"oldestReader\":2")] {
            std::fs::write(&path, other).unwrap();
            assert!(read(&path).is_err(), "{other}");
        }
    }
}
