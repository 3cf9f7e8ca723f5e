//! Whose connections keelson-network is to cut, in `/run/keelson/cluster/departed.json`, replaced by rename at each change.
//!
//! An API server denies a removed node's next request, but goes on with the watches that it has open. Writer and reader come from one
//! image and the file lives as long as the boot, so the form has no version.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where keelson-cluster writes it.
pub const DEPARTED_PATH: &str = "/run/keelson/cluster/departed.json";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// Of nodes that were removed a moment ago, and that no member has.
    pub addresses: Vec<IpAddr>,
    /// Connections of theirs to these TCP ports of this node are cut, again and again while they are named here.
    pub ports: Vec<u16>,
}

impl Departed {
    /// `None` while nobody has left; a file that is malformed is an error of its writer.
    pub fn read(path: &Path) -> std::io::Result<Option<Self>> {
        crate::wish::read(path)
    }
}
