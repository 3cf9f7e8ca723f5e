//! Files that others watch: replaced in one step, so that no reader ever sees half of one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;

/// Everyone on the node may read what the network is; only this process writes it.
const MODE: u32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot replace {path}")]
    Replace { path: String, source: io::Error },
    #[error("cannot put the content of {path} into words")]
    Serialise { path: String, source: serde_json::Error },
}

/// Writes a temporary file beside `path` and renames it. No fsync: these files live in memory and die with the boot.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let failed = |source| WriteError::Replace { path: path.display().to_string(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

pub fn replace_json(path: &Path, content: &impl Serialize) -> Result<(), WriteError> {
    let bytes = serde_json::to_vec(content)
        .map_err(|source| WriteError::Serialise { path: path.display().to_string(), source })?;
    replace(path, &bytes)
}
