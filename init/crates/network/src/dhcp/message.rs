//! DHCP messages: what the client says and what it takes from an answer.
//!
//! Bytes come from strangers. dhcproto parses them, but takes some things on trust: it slices by a hardware address
//! length from the packet, and panics on several options of the wrong size. So [`parse`] checks the header and lets
//! through only the options that are used here, each of a size that makes sense; [`lease`] judges what they mean.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable as _, Encodable as _};
use ipnet::Ipv4Net;
use keelson_config::MacAddress;

use crate::dhcp::lease::{Lease, LeaseRoute};

/// RFC 2131, section 3.3: all ones is for ever.
const FOREVER: u32 = u32::MAX;
/// Shorter leases are stretched to this: a lease of no length would have the client do nothing but ask.
const LEASE_MIN: Duration = Duration::from_secs(4);
/// RFC 791: every host takes this much; RFC 2132 allows no less for option 26 than 68, which nothing could use.
const MTU_MIN: u16 = 576;
/// The fixed part of a message up to the magic cookie.
const HEADER: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const ETHERNET: u8 = 1;
/// An option's length is one byte.
const PIECE_MAX: usize = 255;

/// In the order of wish: RFC 3442 wants 121 before 3.
const PARAMETERS: [OptionCode; 13] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::Hostname,
    OptionCode::DomainName,
    OptionCode::InterfaceMtu,
    OptionCode::BroadcastAddr,
    OptionCode::NtpServers,
    OptionCode::AddressLeaseTime,
    OptionCode::Renewal,
    OptionCode::Rebinding,
    OptionCode::DomainSearch,
];
/// What our sockets take, and what fits an Ethernet frame.
const MESSAGE_MAX: u16 = 1472;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub mac: MacAddress,
    /// Sent to the server, which may register it.
    pub hostname: Option<String>,
}

/// What is asked. Which fields a message carries is table 5 of RFC 2131.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Discover,
    /// After an offer.
    Select {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// INIT-REBOOT: is the address still mine here?
    Reboot {
        address: Ipv4Addr,
    },
    /// RENEWING and REBINDING.
    Extend {
        address: Ipv4Addr,
    },
}

/// A message as sent to port 67.
pub fn question(identity: &Identity, xid: u32, seconds: u16, question: Question) -> Message {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootRequest).set_htype(HType::Eth).set_xid(xid).set_secs(seconds);
    message.set_chaddr(&identity.mac.0);
    let kind = if question == Question::Discover { MessageType::Discover } else { MessageType::Request };
    if let Question::Extend { address } = question {
        message.set_ciaddr(address);
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    match question {
        Question::Discover | Question::Extend { .. } => {}
        Question::Select { address, server } => {
            options.insert(DhcpOption::RequestedIpAddress(address));
            options.insert(DhcpOption::ServerIdentifier(server));
        }
        Question::Reboot { address } => {
            options.insert(DhcpOption::RequestedIpAddress(address));
        }
    }
    // RFC 2132, 9.14: hardware type and address, the same across restarts.
    options.insert(DhcpOption::ClientIdentifier([&[ETHERNET][..], &identity.mac.0].concat()));
    options.insert(DhcpOption::ParameterRequestList(PARAMETERS.to_vec()));
    options.insert(DhcpOption::MaxMessageSize(MESSAGE_MAX));
    if let Some(hostname) = &identity.hostname {
        options.insert(DhcpOption::Hostname(hostname.clone()));
    }
    message
}

/// The bytes of a message; empty if it cannot be encoded, which no message of ours is.
pub fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}

/// A reply to `mac`, or `None` for anything else.
pub fn parse(bytes: &[u8], mac: MacAddress) -> Option<Message> {
    let (header, options) = bytes.split_at_checked(HEADER)?;
    let hardware = (header.first()?, header.get(1)?, header.get(2)?);
    if hardware != (&2, &ETHERNET, &6) || header.get(HEADER - 4..)? != MAGIC {
        return None;
    }
    let message = Message::from_bytes(&[header, &sieve(options)].concat()).ok()?;
    (message.chaddr() == mac.0).then_some(message)
}

/// The options that are used here, in pieces as short as they must be, each code's in one place (RFC 3396 lets a long
/// option come in several).
fn sieve(options: &[u8]) -> Vec<u8> {
    let mut found: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut rest = options;
    while let [code, after @ ..] = rest {
        match OptionCode::from(*code) {
            OptionCode::End => break,
            OptionCode::Pad => rest = after,
            _ => {
                let Some((length, after)) = after.split_first() else { break };
                let Some((value, after)) = after.split_at_checked(usize::from(*length)) else { break };
                found.entry(*code).or_default().extend(value);
                rest = after;
            }
        }
    }
    found.retain(|code, value| makes_sense(OptionCode::from(*code), value));
    let pieces = found.iter().flat_map(|(code, value)| value.chunks(PIECE_MAX).map(move |piece| (*code, piece)));
    let mut sieved = Vec::new();
    for (code, piece) in pieces {
        sieved.extend([code, u8::try_from(piece.len()).unwrap_or(u8::MAX)]);
        sieved.extend(piece);
    }
    sieved.push(OptionCode::End.into());
    sieved
}

fn makes_sense(code: OptionCode, value: &[u8]) -> bool {
    match code {
        OptionCode::MessageType => value.len() == 1,
        OptionCode::InterfaceMtu => value.len() == 2,
        OptionCode::SubnetMask
        | OptionCode::RequestedIpAddress
        | OptionCode::AddressLeaseTime
        | OptionCode::ServerIdentifier
        | OptionCode::Renewal
        | OptionCode::Rebinding => value.len() == 4,
        OptionCode::Router | OptionCode::DomainNameServer | OptionCode::NtpServers => {
            !value.is_empty() && value.len().is_multiple_of(4)
        }
        OptionCode::Hostname | OptionCode::DomainName => !value.is_empty() && std::str::from_utf8(value).is_ok(),
        OptionCode::DomainSearch | OptionCode::ClasslessStaticRoute => !value.is_empty(),
        _ => false,
    }
}

/// The offer's address and server.
pub fn offer(message: &Message) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let server = server(message)?;
    is_host(message.yiaddr()).then_some((message.yiaddr(), server))
}

pub fn server(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
        _ => None,
    }
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}

/// What an acknowledgement grants, if it grants anything that can be used. `asked` is when the request was sent.
pub fn lease(message: &Message, asked: Duration) -> Option<Lease> {
    let options = message.opts();
    let server = server(message)?;
    let DhcpOption::AddressLeaseTime(seconds) = options.get(OptionCode::AddressLeaseTime)? else { return None };
    if !is_host(message.yiaddr()) {
        return None;
    }
    let duration = (*seconds != FOREVER).then(|| Duration::from_secs(u64::from(*seconds)).max(LEASE_MIN));
    let (renew_after, rebind_after) = timers(message, duration);
    Some(Lease {
        server,
        address: Ipv4Net::new(message.yiaddr(), prefix_length(message)).ok()?,
        routes: routes(message),
        nameservers: addresses(options.get(OptionCode::DomainNameServer)),
        search: search(message),
        ntp_servers: addresses(options.get(OptionCode::NtpServers)),
        mtu: match options.get(OptionCode::InterfaceMtu) {
            Some(DhcpOption::InterfaceMtu(mtu)) if *mtu >= MTU_MIN => Some(u32::from(*mtu)),
            _ => None,
        },
        hostname: match options.get(OptionCode::Hostname) {
            Some(DhcpOption::Hostname(name)) => {
                Some(name.trim_end_matches('\0').to_owned()).filter(|name| is_domain(name))
            }
            _ => None,
        },
        obtained: asked,
        duration,
        renew_after,
        rebind_after,
    })
}

/// T1 and T2 as the server says them, if they are in order; else RFC 2131's half and seven eighths (section 4.4.5).
fn timers(message: &Message, duration: Option<Duration>) -> (Duration, Duration) {
    let Some(duration) = duration else { return (Duration::MAX, Duration::MAX) };
    let said = |code| match message.opts().get(code) {
        Some(DhcpOption::Renewal(seconds) | DhcpOption::Rebinding(seconds)) => {
            Some(Duration::from_secs(u64::from(*seconds)))
        }
        _ => None,
    };
    let renew = said(OptionCode::Renewal).unwrap_or(duration / 2);
    let rebind = said(OptionCode::Rebinding).unwrap_or(duration * 7 / 8);
    if !renew.is_zero() && renew < rebind && rebind < duration {
        (renew, rebind)
    } else {
        (duration / 2, duration * 7 / 8)
    }
}

/// The mask's length; without a mask, or with one that has holes, that of the address's class (RFC 950).
fn prefix_length(message: &Message) -> u8 {
    let by_class = match message.yiaddr().octets() {
        [0..=127, ..] => 8,
        [128..=191, ..] => 16,
        _ => 24,
    };
    match message.opts().get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => ipnet::ipv4_mask_to_prefix(*mask).unwrap_or(by_class),
        _ => by_class,
    }
}

/// Classless routes, which replace the router option where they are given (RFC 3442).
fn routes(message: &Message) -> Vec<LeaseRoute> {
    if let Some(DhcpOption::ClasslessStaticRoute(routes)) = message.opts().get(OptionCode::ClasslessStaticRoute)
        && !routes.is_empty()
    {
        let route = |(destination, gateway): &(Ipv4Net, Ipv4Addr)| LeaseRoute {
            destination: destination.trunc(),
            gateway: Some(*gateway).filter(|gateway| !gateway.is_unspecified()),
        };
        return routes.iter().map(route).collect();
    }
    match addresses(message.opts().get(OptionCode::Router)).first() {
        Some(router) => vec![LeaseRoute { destination: Ipv4Net::default(), gateway: Some(*router) }],
        None => Vec::new(),
    }
}

fn addresses(option: Option<&DhcpOption>) -> Vec<Ipv4Addr> {
    match option {
        Some(DhcpOption::Router(list) | DhcpOption::DomainNameServer(list) | DhcpOption::NtpServers(list)) => {
            list.iter().copied().filter(|address| is_host(*address)).collect()
        }
        _ => Vec::new(),
    }
}

/// The search list, or the domain alone. A list with anything but names in it is not taken at all: names are written
/// into the resolver file.
fn search(message: &Message) -> Vec<String> {
    let list = match message.opts().get(OptionCode::DomainSearch) {
        Some(DhcpOption::DomainSearch(names)) if !names.is_empty() => names.iter().map(ToString::to_string).collect(),
        _ => match message.opts().get(OptionCode::DomainName) {
            // Some servers put several names into the one option.
            Some(DhcpOption::DomainName(name)) => name.split([' ', '\0']).map(str::to_owned).collect(),
            _ => Vec::new(),
        },
    };
    let plain = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
    let list: Vec<String> = list.into_iter().map(plain).filter(|name| !name.is_empty()).collect();
    if list.iter().all(|name| is_domain(name)) { list } else { Vec::new() }
}

fn is_domain(name: &str) -> bool {
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split('.').all(part)
}

#[cfg(test)]
mod tests;
