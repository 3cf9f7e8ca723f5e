//! Cuts the TCP connections of nodes that were removed from the cluster: keelson-cluster names their addresses and the ports of this node
//! that they have lost ([`Departed`]).
//!
//! By `sock_diag(7)`: the kernel lists its TCP sockets, and `SOCK_DESTROY` ends one (`CONFIG_INET_DIAG_DESTROY`, `CAP_NET_ADMIN`). Its process
//! reads `ECONNABORTED`, the other end is sent a reset.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_config::departed::Departed;

use crate::say::{failed, say};

mod diag;

/// How often the file is looked at, which lies in memory.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum CutError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cutting connections of removed nodes")]
    Diag(#[source] io::Error),
}

/// For as long as the process runs.
pub async fn run(path: PathBuf) {
    let mut complaint = String::new();
    loop {
        match look(&path) {
            Ok(cut) => {
                complaint.clear();
                for (address, count) in cut {
                    say(format_args!("{address} was removed from the cluster: {count} of its connections are cut"));
                }
            }
            Err(error) => {
                // Once for each new reason; tried again at the next look.
                let text = format!("{error:?}");
                if text != complaint {
                    failed(&error);
                    complaint = text;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many connections were cut, by whose they were.
fn look(path: &Path) -> Result<Vec<(IpAddr, usize)>, CutError> {
    let departed = Departed::read(path).map_err(|source| CutError::Read { path: path.to_owned(), source })?;
    let Some(departed) = departed.filter(|departed| !departed.addresses.is_empty()) else { return Ok(Vec::new()) };
    let mut cut = Vec::new();
    for address in departed.addresses {
        let theirs = |socket: &diag::Tcp| socket.remote == address && departed.ports.contains(&socket.local_port);
        let count = diag::destroy(theirs).map_err(CutError::Diag)?;
        if count > 0 {
            cut.push((address, count));
        }
    }
    Ok(cut)
}
