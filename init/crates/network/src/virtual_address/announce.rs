//! Tells the link where an address is now: machines that know it from another place believe the newest word.
//!
//! IPv4: ARP announcements (RFC 5227, 3), as a request and as a reply, since each has hosts that heed only the other. IPv6: an unsolicited
//! neighbour advertisement (RFC 4861, 7.2.6).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};

use keelson_config::MacAddress;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Place;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet, IPv4, and the lengths of their addresses (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

#[derive(Debug, Clone, Copy)]
enum Operation {
    Request,
    Reply,
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// This machine forwards, as every node does for its pods; and what is known otherwise is overridden.
const ROUTER_AND_OVERRIDE: u8 = 0xa0;
/// The option's type, and its length in units of eight bytes.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];

pub(super) fn announce(place: Place, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => {
            let socket = Socket::from(keelson_sys::packet::open_arp(place.link)?);
            socket.send(&arp(place.mac, address, Operation::Request))?;
            socket.send(&arp(place.mac, address, Operation::Reply)).map(drop)
        }
        IpAddr::V6(address) => {
            let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
            // What may have come through a router is ignored.
            socket.set_multicast_hops_v6(255)?;
            socket.set_multicast_loop_v6(false)?;
            let to = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, place.link));
            // The kernel adds the checksum.
            socket.send_to(&advertisement(place.mac, address), &to).map(drop)
        }
    }
}

/// A frame: sender and target are the address itself.
fn arp(mac: MacAddress, address: Ipv4Addr, operation: Operation) -> Vec<u8> {
    let (code, target) = match operation {
        Operation::Request => ([0, 1], [0; 6]),
        Operation::Reply => ([0, 2], BROADCAST),
    };
    let parts: [&[u8]; 9] =
        [&BROADCAST, &mac.0, &ETHERTYPE_ARP, &ARP_KIND, &code, &mac.0, &address.octets(), &target, &address.octets()];
    parts.concat()
}

fn advertisement(mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    let head = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, ROUTER_AND_OVERRIDE, 0, 0, 0];
    let parts: [&[u8]; 4] = [&head, &address.octets(), &TARGET_LINK_LAYER_ADDRESS, &mac.0];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);

    #[test]
    fn an_arp_announcement_has_the_address_as_sender_and_target() {
        let address = Ipv4Addr::new(192, 0, 2, 10);
        let request = arp(MAC, address, Operation::Request);
        assert_eq!(request[..14], [255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 1, 8, 6]);
        assert_eq!(request[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(request[22..], [0x52, 0x54, 0, 0, 0, 1, 192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10]);
        let reply = arp(MAC, address, Operation::Reply);
        assert_eq!((reply.len(), reply[21]), (42, 2));
        assert_eq!(reply[32..38], BROADCAST);
    }

    #[test]
    fn a_neighbour_advertisement_overrides_what_is_known() {
        let advertisement = advertisement(MAC, "2001:db8::10".parse().unwrap());
        assert_eq!(advertisement[..8], [136, 0, 0, 0, 0xa0, 0, 0, 0]);
        assert_eq!(advertisement[8..24], "2001:db8::10".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(advertisement[24..], [2, 1, 0x52, 0x54, 0, 0, 0, 1]);
    }
}
