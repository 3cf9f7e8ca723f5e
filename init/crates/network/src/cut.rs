//! Cuts the TCP connections of nodes that were removed from the cluster: keelson-cluster names their addresses and the ports of this node
//! that they have lost ([`Departed`]).
//!
//! By `sock_diag(7)`: the kernel lists its TCP sockets, and `SOCK_DESTROY` ends one (`CONFIG_INET_DIAG_DESTROY`, `CAP_NET_ADMIN`). Its process
//! reads `ECONNABORTED`, the other end is sent a reset.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_config::departed::Departed;

use crate::say::{Complaint, say};

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
    let mut complaint = Complaint::default();
    loop {
        match look(&path) {
            Ok(cut) => {
                complaint.passed();
                for (address, count) in cut {
                    say(format_args!("{address} was removed from the cluster: {count} of its connections are cut"));
                }
            }
            // Tried again at the next look.
            Err(error) => complaint.of(&error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many connections were cut, by whose they were.
fn look(path: &Path) -> Result<BTreeMap<IpAddr, usize>, CutError> {
    let departed = Departed::read(path).map_err(|source| CutError::Read { path: path.to_owned(), source })?;
    let Some(departed) = departed.filter(|departed| !departed.addresses.is_empty()) else { return Ok(BTreeMap::new()) };
    let theirs =
        |socket: &diag::Tcp| departed.addresses.contains(&socket.remote) && departed.ports.contains(&socket.local_port);
    let mut cut = BTreeMap::new();
    for address in diag::destroy(theirs).map_err(CutError::Diag)? {
        *cut.entry(address).or_default() += 1;
    }
    Ok(cut)
}
