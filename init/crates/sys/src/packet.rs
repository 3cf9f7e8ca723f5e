//! Packet sockets (packet(7)): what DHCP needs before a link has an address, and how an address is announced that has come to a link.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `ETH_P_IP` of `linux/if_ether.h`.
const PROTOCOL_IPV4: u16 = 0x0800;
/// `ETH_P_ARP`.
const PROTOCOL_ARP: u16 = 0x0806;

/// Opens a raw packet socket for IPv4 frames of one link. What is sent and received has its Ethernet header. The socket
/// is non-blocking and closes on exec. Needs `CAP_NET_RAW`.
pub fn open(link_index: u32) -> io::Result<OwnedFd> {
    open_for(link_index, PROTOCOL_IPV4)
}

/// The same for ARP.
pub fn open_arp(link_index: u32) -> io::Result<OwnedFd> {
    open_for(link_index, PROTOCOL_ARP)
}

fn open_for(link_index: u32, protocol: u16) -> io::Result<OwnedFd> {
    let link_index = i32::try_from(link_index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Protocol 0 receives nothing until bind names link and protocol, so no frame of another link slips in between.
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three integers and touches no memory of ours.
    // JUSTIFICATION: nix and rustix have no packet family without a protocol.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was returned just above, is valid and nobody else has it.
    // JUSTIFICATION: there is no safe way from the integer to an owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    bind(&socket, link_index, protocol)?;
    Ok(socket)
}

fn bind(socket: &OwnedFd, link_index: i32, protocol: u16) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let address = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(invalid)?,
        sll_protocol: protocol.to_be(),
        sll_ifindex: link_index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(invalid)?;
    // SAFETY: the pointer is to a whole sockaddr_ll that outlives the call, and the length is its size.
    // JUSTIFICATION: neither nix nor rustix can make a sockaddr_ll from values.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_link_that_does_not_exist() {
        let error = open(u32::MAX >> 1).unwrap_err();
        // Without CAP_NET_RAW the socket itself is refused.
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
        assert_eq!(open_arp(u32::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
