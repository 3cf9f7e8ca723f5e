//! What is said on the query socket, and a small client for it.
//!
//! A client connects to [`SOCKET_PATH`], sends one [`Query`] as a JSON object on one line, and reads log lines until the
//! end of the stream; with `follow` the stream ends when either side closes it. A query that cannot be answered yields one
//! line that begins with [`ERROR_PREFIX`]. The form has no version of its own: keelson-log and whoever asks it are parts of
//! one image, and an unknown field is refused.
//!
//! The client blocks. Asynchronous callers send [`Query::to_line`] over a socket of their own runtime.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Where keelson-log answers queries.
pub const SOCKET_PATH: &str = "/run/keelson/log/log.sock";

/// How the only line of an answer begins when the query could not be answered. A log line begins with a digit.
pub const ERROR_PREFIX: &str = "error: ";

/// The longest query that is read: a name and two small fields need a fraction of it.
pub const QUERY_BYTES_MAX: usize = 1024;

/// How long a client waits for its short query to be taken.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Which lines are wanted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub service: String,
    /// The newest lines that exist already; older ones are taken from the files when memory holds fewer.
    #[serde(default)]
    pub lines: u32,
    /// Whether to go on with lines as they come.
    #[serde(default)]
    pub follow: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("cannot connect to {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("cannot write the query")]
    Encode(#[source] serde_json::Error),
    #[error("cannot send the query")]
    Send(#[source] io::Error),
}

impl Query {
    /// The query as it goes over the socket, its line feed included.
    pub fn to_line(&self) -> Result<String, QueryError> {
        let mut line = serde_json::to_string(self).map_err(QueryError::Encode)?;
        line.push('\n');
        Ok(line)
    }

    /// Sends the query and returns the stream of lines, on which the caller may set a read timeout.
    pub fn send(&self, socket: &Path) -> Result<UnixStream, QueryError> {
        let mut stream =
            UnixStream::connect(socket).map_err(|source| QueryError::Connect { path: socket.to_path_buf(), source })?;
        stream.set_write_timeout(Some(SEND_TIMEOUT)).map_err(QueryError::Send)?;
        stream.write_all(self.to_line()?.as_bytes()).map_err(QueryError::Send)?;
        Ok(stream)
    }
}
