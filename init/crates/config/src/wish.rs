//! What one service asks of another in a file below `/run`, replaced by rename at each change.

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::de::DeserializeOwned;

/// `None` while nothing was asked for. A file that is malformed is an error of its writer.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
