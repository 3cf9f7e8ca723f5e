//! IPv6 by router advertisement. The kernel does it (addresses from prefixes, the default route), but not for a machine that
//! forwards packets, as every node does for its pods: it has to be told so for each link (ip-sysctl, `accept_ra`).
//!
//! What the kernel leaves to others it passes on by netlink: resolvers ([`heard`], kept in [`resolvers`]), and whether routers ask
//! for DHCPv6.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub mod heard;
pub mod resolvers;
pub mod socket;

pub use heard::{Heard, RouterFlags};
pub use resolvers::Advertised;

/// A directory for each link.
const SETTINGS: &str = "/proc/sys/net/ipv6/conf";
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// A Router Solicitation without options (RFC 4861, 4.1); the kernel adds the checksum.
const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
/// Even though this machine forwards.
const ACCEPT: &str = "2";
const IGNORE: &str = "0";

#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct AdvertisementError {
    path: PathBuf,
    source: io::Error,
}

/// Whether the link is to be configured by what routers advertise. Before it comes up, so that the first one counts.
pub fn set(link: &str, accept: bool) -> Result<(), AdvertisementError> {
    set_in(Path::new(SETTINGS), link, accept)
}

fn set_in(settings: &Path, link: &str, accept: bool) -> Result<(), AdvertisementError> {
    let path = settings.join(link).join("accept_ra");
    match std::fs::write(&path, if accept { ACCEPT } else { IGNORE }) {
        // A kernel that was told to do without IPv6, or a link that just went.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| AdvertisementError { path, source }),
    }
}

/// Asks the link's routers to say now what they say now and then. The kernel asks when a link comes up, but not for a daemon that takes on one
/// which is: it would know no resolvers until a router speaks by itself, which may take half an hour.
///
/// # Errors
///
/// Those of socket(2) and sendto(2): `EADDRNOTAVAIL` while the link's own address is being checked.
pub fn solicit(link: u32) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
    // Routers ignore what may have come through another one.
    socket.set_multicast_hops_v6(255)?;
    socket.send_to(&SOLICITATION, &SockAddr::from(SocketAddrV6::new(ALL_ROUTERS, 0, 0, link))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_is_told_either_way_and_may_be_gone() {
        let settings = tempfile::tempdir().unwrap();
        std::fs::create_dir(settings.path().join("eth0.5")).unwrap();
        let read = || std::fs::read_to_string(settings.path().join("eth0.5/accept_ra")).unwrap();
        set_in(settings.path(), "eth0.5", true).unwrap();
        assert_eq!(read(), "2");
        set_in(settings.path(), "eth0.5", false).unwrap();
        assert_eq!(read(), "0");
        set_in(settings.path(), "eth9", true).unwrap();
    }
}
