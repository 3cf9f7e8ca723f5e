//! What the kernel passes on of router advertisements: resolvers and search domains (RFC 8106), and whether the link's routers
//! ask for DHCPv6 (RFC 4861, 4.2). Netlink messages, of which the options' bytes are a stranger's.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::domains;

/// One thing that was heard on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Resolvers { link: u32, servers: Vec<Ipv6Addr>, lifetime: Duration },
    Search { link: u32, domains: Vec<String>, lifetime: Duration },
    Flags { link: u32, flags: RouterFlags },
}

/// What the routers of a link say of DHCPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouterFlags {
    /// Addresses, and all else, are had by DHCPv6.
    pub managed: bool,
    /// Resolvers and the like are.
    pub other: bool,
}

const HEADER_BYTES: usize = 16;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWNDUSEROPT: u16 = 68;
const AF_INET6: u8 = 10;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Attributes of a link (`linux/if_link.h`), and flags of an IPv6 device (`net/if_inet6.h`).
const IFLA_PROTINFO: u16 = 12;
const IFLA_INET6_FLAGS: u16 = 1;
const ATTRIBUTE_KIND: u16 = 0x3fff;
pub const IF_RA_OTHERCONF: u32 = 0x80;
pub const IF_RA_MANAGED: u32 = 0x40;

const RDNSS: u8 = 25;
const DNSSL: u8 = 31;
/// Of one option. A router that advertises more is not meant to be believed.
const SERVERS_MAX: usize = 8;

/// All that is of use in what one read of the socket returned.
pub fn parse(mut bytes: &[u8]) -> Vec<Heard> {
    let mut heard = Vec::new();
    while let (Some(length), Some(kind)) = (host32(bytes, 0), host16(bytes, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER_BYTES..length) else { break };
        match kind {
            RTM_NEWNDUSEROPT => options(body, &mut heard),
            RTM_NEWLINK => heard.extend(flags(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    heard
}

/// `struct nduseroptmsg`: family, length of the options, link, ICMP type; then the options.
fn options(body: &[u8], heard: &mut Vec<Heard>) {
    let (Some(&family), Some(&kind)) = (body.first(), body.get(8)) else { return };
    let (Some(length), Some(link)) = (host16(body, 2), host32(body, 4)) else { return };
    if family != AF_INET6 || kind != ROUTER_ADVERTISEMENT {
        return;
    }
    let mut rest = body.get(16..16 + usize::from(length)).unwrap_or_default();
    // Type, length in units of eight bytes, content.
    while let [kind, units, ..] = *rest {
        let length = usize::from(units) * 8;
        let Some(option) = rest.get(..length).filter(|_| length > 0) else { return };
        heard.extend(option_of(kind, option, link));
        rest = rest.get(length..).unwrap_or_default();
    }
}

fn option_of(kind: u8, option: &[u8], link: u32) -> Option<Heard> {
    let lifetime = option.get(4..8)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
    let lifetime = Duration::from_secs(lifetime.into());
    let content = option.get(8..)?;
    match kind {
        RDNSS => {
            let addresses = content.as_chunks::<16>().0.iter().map(|bytes| Ipv6Addr::from(*bytes));
            let servers: Vec<_> = addresses.filter(domains::may_be_asked).take(SERVERS_MAX).collect();
            (!servers.is_empty()).then_some(Heard::Resolvers { link, servers, lifetime })
        }
        DNSSL => {
            let domains = domains::parse(content);
            (!domains.is_empty()).then_some(Heard::Search { link, domains, lifetime })
        }
        _ => None,
    }
}

/// `struct ifinfomsg`, and in it the protocol's own attributes.
fn flags(body: &[u8]) -> Option<Heard> {
    if *body.first()? != AF_INET6 {
        return None;
    }
    let link = host32(body, 4)?;
    let own = attribute(body.get(16..)?, IFLA_PROTINFO)?;
    let bits = host32(attribute(own, IFLA_INET6_FLAGS)?, 0)?;
    let flags = RouterFlags { managed: bits & IF_RA_MANAGED != 0, other: bits & IF_RA_OTHERCONF != 0 };
    Some(Heard::Flags { link, flags })
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(host16(bytes, 0)?), host16(bytes, 2)?);
        let content = bytes.get(4..length)?;
        if kind & ATTRIBUTE_KIND == wanted {
            return Some(content);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn host16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn host32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn advertised(options: &[u8]) -> Vec<u8> {
        let mut body = vec![AF_INET6, 0];
        body.extend(u16::try_from(options.len()).unwrap().to_ne_bytes());
        body.extend(3_u32.to_ne_bytes());
        body.extend([ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(options);
        message(RTM_NEWNDUSEROPT, &body)
    }

    fn resolvers() -> Vec<u8> {
        let mut option = vec![RDNSS, 5, 0, 0, 0, 0, 2, 0x58];
        option.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        option.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
        option
    }

    fn search() -> Vec<u8> {
        let mut option = vec![DNSSL, 3, 0, 0, 0, 0, 2, 0x58];
        option.extend(b"\x04test\x07example\0\0\0");
        option
    }

    fn managed() -> Vec<u8> {
        let mut body = vec![AF_INET6, 0, 0, 0];
        body.extend(3_u32.to_ne_bytes());
        body.extend([0; 8]);
        body.extend(12_u16.to_ne_bytes());
        body.extend((IFLA_PROTINFO | 0x8000).to_ne_bytes());
        body.extend(8_u16.to_ne_bytes());
        body.extend(IFLA_INET6_FLAGS.to_ne_bytes());
        body.extend((IF_RA_MANAGED | 0x20).to_ne_bytes());
        message(RTM_NEWLINK, &body)
    }

    #[test]
    fn resolvers_domains_and_flags_are_heard() {
        let bytes = [advertised(&[resolvers(), search()].concat()), managed(), message(99, &[1, 2, 3])].concat();
        let lifetime = Duration::from_mins(10);
        let flags = RouterFlags { managed: true, other: false };
        assert_eq!(
            parse(&bytes),
            [
                Heard::Resolvers { link: 3, servers: vec!["fd00::1".parse().unwrap()], lifetime },
                Heard::Search { link: 3, domains: vec!["test.example".to_owned()], lifetime },
                Heard::Flags { link: 3, flags },
            ]
        );
    }

    #[test]
    fn options_that_end_early_are_not_believed() {
        assert_eq!(parse(&advertised(&[RDNSS, 0, 0, 0])), []);
        assert_eq!(parse(&advertised(&[RDNSS, 9, 0, 0, 0, 0, 0, 1])), []);
        assert_eq!(parse(&[1, 0, 0, 0]), []);
    }

    #[test]
    fn whatever_is_heard_parsing_ends() {
        let seeds = [advertised(&[resolvers(), search()].concat()), managed()];
        keelson_mutation::campaign("a router's options", 20_000, &seeds, &[b"\0", b"\xff", b"\x19\x03"], |bytes| {
            for heard in parse(bytes) {
                let _ = format!("{heard:?}");
            }
        });
    }
}
