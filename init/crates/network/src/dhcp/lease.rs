//! What a server granted, and the file in which it outlives a restart of the daemon.
//!
//! `/run/keelson/network/lease-<link>.json`: the lease and the MAC address it was granted to. Times are durations since
//! the machine started, so the file means the same to the next daemon and dies with the boot. Writer and reader come
//! from one image; a file that does not parse is as good as none.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use keelson_config::MacAddress;
use serde::{Deserialize, Serialize};

use crate::files;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub server: Ipv4Addr,
    /// The address with its prefix length.
    pub address: Ipv4Net,
    pub routes: Vec<LeaseRoute>,
    pub nameservers: Vec<Ipv4Addr>,
    pub search: Vec<String>,
    pub ntp_servers: Vec<Ipv4Addr>,
    pub mtu: Option<u32>,
    pub hostname: Option<String>,
    /// When the request was sent that the server granted, since boot.
    pub obtained: Duration,
    /// From `obtained` on; `None`: for ever, and T1 and T2 mean nothing.
    pub duration: Option<Duration>,
    /// T1 from `obtained` on.
    pub renew_after: Duration,
    /// T2 from `obtained` on.
    pub rebind_after: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRoute {
    pub destination: Ipv4Net,
    /// `None`: the destination is on the link.
    pub gateway: Option<Ipv4Addr>,
}

impl Lease {
    pub fn expires(&self) -> Option<Duration> {
        self.duration.map(|duration| self.obtained + duration)
    }

    pub fn has_expired(&self, now: Duration) -> bool {
        self.expires().is_some_and(|expires| now >= expires)
    }

    /// How long the lease still holds at `now`; `None` for ever.
    pub fn remaining(&self, now: Duration) -> Option<Duration> {
        self.expires().map(|expires| expires.saturating_sub(now))
    }

    /// The gateway of the default route.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.routes.iter().find(|route| route.destination.prefix_len() == 0).and_then(|route| route.gateway)
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    mac: MacAddress,
    lease: Lease,
}

fn path(directory: &Path, link: &str) -> PathBuf {
    directory.join(format!("lease-{link}.json"))
}

/// The lease that an earlier daemon left for this link, if it is for this MAC address and still holds.
pub fn load(directory: &Path, link: &str, mac: MacAddress, now: Duration) -> Option<Lease> {
    let bytes = std::fs::read(path(directory, link)).ok()?;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    (kept.mac == mac && !kept.lease.has_expired(now)).then_some(kept.lease)
}

/// Keeps the lease for the next daemon.
pub fn keep(directory: &Path, link: &str, mac: MacAddress, lease: &Lease) -> Result<(), files::WriteError> {
    files::replace_json(&path(directory, link), &Kept { mac, lease: lease.clone() })
}

/// Forgets it.
pub fn forget(directory: &Path, link: &str) {
    // Absent is what is wanted, and a file that stays is judged by its expiry.
    let _ = std::fs::remove_file(path(directory, link));
}
