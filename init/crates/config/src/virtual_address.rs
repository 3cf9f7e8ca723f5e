//! Until when this node has the cluster's virtual address, in `/run/keelson/cluster/virtual-address.json`, replaced by rename at each change.
//!
//! keelson-cluster, which wins the address and must go on winning it, writes it; keelson-network puts the address on a link and takes it away
//! at the moment that is named here, whatever has become of the writer. Both come from one image and the file lives as long as the boot, so
//! the form has no version.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where keelson-cluster writes it.
pub const VIRTUAL_ADDRESS_PATH: &str = "/run/keelson/cluster/virtual-address.json";

/// How soon keelson-network sees what was written.
pub const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualAddress {
    pub address: IpAddr,
    /// Since boot, suspension included (`CLOCK_BOOTTIME`); none while this node does not have it.
    pub until_milliseconds: Option<u64>,
}

impl VirtualAddress {
    /// `None` while nothing was said; a file that is malformed is an error of its writer.
    pub fn read(path: &Path) -> std::io::Result<Option<Self>> {
        crate::wish::read(path)
    }

    /// For how long from `now`, since boot; none if this node does not have it, or not any more.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let until = Duration::from_millis(self.until_milliseconds?);
        until.checked_sub(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_has_run_out_or_was_never_had() {
        let of = |until_milliseconds| VirtualAddress { address: "192.0.2.10".parse().unwrap(), until_milliseconds };
        let now = Duration::from_secs(7);
        assert_eq!(of(Some(8500)).left(now), Some(Duration::from_millis(1500)));
        assert_eq!(of(Some(7000)).left(now), None);
        assert_eq!(of(Some(1)).left(now), None);
        assert_eq!(of(None).left(now), None);
    }
}
