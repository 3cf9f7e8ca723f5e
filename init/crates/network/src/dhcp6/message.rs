//! Messages of RFC 8415: type, transaction id, options. Read into what this client uses; everything else is passed over.

use std::net::Ipv6Addr;
use std::time::Duration;

use keelson_config::MacAddress;

use crate::domains;

/// No message is longer than an Ethernet frame that was not fragmented.
pub const BYTES_MAX: usize = 1500;
/// RFC 8415, 11.1: an identity is at most 128 bytes behind its type.
const IDENTITY_MAX: usize = 130;
const SERVERS_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Solicit,
    Advertise,
    Request,
    Renew,
    Rebind,
    Reply,
    InformationRequest,
}

impl Kind {
    const ALL: [(Self, u8); 7] = [
        (Self::Solicit, 1),
        (Self::Advertise, 2),
        (Self::Request, 3),
        (Self::Renew, 5),
        (Self::Rebind, 6),
        (Self::Reply, 7),
        (Self::InformationRequest, 11),
    ];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind)
    }

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }
}

mod option {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RESOLVERS: u16 = 23;
    pub(super) const SEARCH: u16 = 24;
    pub(super) const SNTP: u16 = 31;
    pub(super) const REFRESH: u16 = 32;
    pub(super) const NTP: u16 = 56;
    /// Inside [`NTP`]: a server's address (RFC 5908).
    pub(super) const NTP_ADDRESS: u16 = 1;
}

/// Who this client is: the link's hardware address (RFC 8415, 11.4), and one association per link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub mac: MacAddress,
}

impl Identity {
    fn bytes(self) -> Vec<u8> {
        [&[0, 3, 0, 1][..], &self.mac.0].concat()
    }

    fn association(self) -> u32 {
        let [_, _, rest @ ..] = self.mac.0;
        u32::from_be_bytes(rest)
    }
}

/// What a server tells beside an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Information {
    pub nameservers: Vec<Ipv6Addr>,
    pub search: Vec<String>,
    pub ntp_servers: Vec<Ipv6Addr>,
    /// When to ask again, where there is no lease to renew.
    pub refresh: Option<Duration>,
}

/// An address with its times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    pub address: Ipv6Addr,
    pub valid: u32,
    pub renew: u32,
    pub rebind: u32,
}

/// A message as far as this client has a use for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// 24 bits.
    pub transaction: u32,
    pub server: Vec<u8>,
    pub preference: u8,
    pub granted: Option<Granted>,
    /// The server says that it has none for us, or that what we have is not good here.
    pub refused: bool,
    pub information: Information,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub kind: Kind,
    pub transaction: u32,
    /// Since the first message of this exchange.
    pub elapsed: Duration,
    /// To whom it is addressed; empty for everybody.
    pub server: Vec<u8>,
    pub address: Option<Ipv6Addr>,
}

pub fn encode(identity: Identity, question: &Question) -> Vec<u8> {
    let [_, transaction @ ..] = question.transaction.to_be_bytes();
    let mut bytes = vec![question.kind.number()];
    bytes.extend(transaction);
    let mut push = |code: u16, content: &[u8]| {
        bytes.extend(code.to_be_bytes());
        bytes.extend(u16::try_from(content.len()).unwrap_or_default().to_be_bytes());
        bytes.extend(content.get(..usize::from(u16::MAX).min(content.len())).unwrap_or_default());
    };
    push(option::CLIENT, &identity.bytes());
    if !question.server.is_empty() {
        push(option::SERVER, &question.server);
    }
    let hundredths = u16::try_from(question.elapsed.as_millis() / 10).unwrap_or(u16::MAX);
    push(option::ELAPSED, &hundredths.to_be_bytes());
    let mut wanted = vec![option::RESOLVERS, option::SEARCH, option::SNTP, option::NTP];
    if question.kind == Kind::InformationRequest {
        wanted.push(option::REFRESH);
    } else {
        let mut association = identity.association().to_be_bytes().to_vec();
        // The times are the server's to choose.
        association.extend([0; 8]);
        if let Some(address) = question.address {
            association.extend(option::ADDRESS.to_be_bytes());
            association.extend(24_u16.to_be_bytes());
            association.extend(address.octets());
            association.extend([0; 8]);
        }
        push(option::IA_NA, &association);
    }
    let wanted: Vec<u8> = wanted.into_iter().flat_map(u16::to_be_bytes).collect();
    push(option::REQUESTED, &wanted);
    bytes
}

/// A message of a server to this client.
pub fn parse(bytes: &[u8], identity: Identity) -> Option<Message> {
    let (head, rest) = bytes.get(..BYTES_MAX.min(bytes.len()))?.split_at_checked(4)?;
    let [kind, transaction @ ..] = *head.first_chunk::<4>()?;
    let kind = Kind::of(kind).filter(|kind| matches!(kind, Kind::Advertise | Kind::Reply))?;
    let [a, b, c] = transaction;
    let mut message = Message {
        kind,
        transaction: u32::from_be_bytes([0, a, b, c]),
        server: Vec::new(),
        preference: 0,
        granted: None,
        refused: false,
        information: Information::default(),
    };
    let mut ours = false;
    for (code, content) in Options(rest) {
        match code {
            option::CLIENT => ours = content == identity.bytes(),
            option::SERVER if content.len() <= IDENTITY_MAX => message.server = content.to_vec(),
            option::PREFERENCE => message.preference = content.first().copied().unwrap_or_default(),
            option::STATUS => message.refused |= status(content) != 0,
            option::IA_NA => association(content, identity, &mut message),
            _ => inform(code, content, &mut message.information),
        }
    }
    (ours && !message.server.is_empty()).then_some(message)
}

fn association(content: &[u8], identity: Identity, message: &mut Message) {
    let (Some(id), Some(renew), Some(rebind)) = (net32(content, 0), net32(content, 4), net32(content, 8)) else {
        return;
    };
    if id != identity.association() {
        return;
    }
    for (code, content) in Options(content.get(12..).unwrap_or_default()) {
        match code {
            option::STATUS => message.refused |= status(content) != 0,
            option::ADDRESS => {
                let address = content.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
                let (Some(address), Some(valid)) = (address, net32(content, 20)) else { continue };
                // An address that is taken back has no time left.
                let refused = Options(content.get(24..).unwrap_or_default())
                    .any(|(code, content)| code == option::STATUS && status(content) != 0);
                let usable = valid > 0 && !refused && domains::may_be_asked(&address);
                if usable && message.granted.is_none() {
                    message.granted = Some(Granted { address, valid, renew, rebind });
                }
            }
            _ => {}
        }
    }
}

fn inform(code: u16, content: &[u8], information: &mut Information) {
    let addresses = |content: &[u8]| -> Vec<Ipv6Addr> {
        let all = content.as_chunks::<16>().0.iter().map(|bytes| Ipv6Addr::from(*bytes));
        all.filter(domains::may_be_asked).take(SERVERS_MAX).collect()
    };
    match code {
        option::RESOLVERS => information.nameservers = addresses(content),
        option::SEARCH => information.search = domains::parse(content),
        option::SNTP if information.ntp_servers.is_empty() => information.ntp_servers = addresses(content),
        option::NTP => {
            let servers = Options(content).filter(|(code, _)| *code == option::NTP_ADDRESS);
            let servers: Vec<_> = servers.flat_map(|(_, content)| addresses(content)).take(SERVERS_MAX).collect();
            if !servers.is_empty() {
                information.ntp_servers = servers;
            }
        }
        option::REFRESH => {
            information.refresh = net32(content, 0).map(|seconds| Duration::from_secs(seconds.into()));
        }
        _ => {}
    }
}

/// 0 is success, and so is saying nothing.
fn status(content: &[u8]) -> u16 {
    content.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn net32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Code and content of one option after the other, up to the first that does not fit.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d, rest @ ..] = self.0 else { return None };
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((u16::from_be_bytes([*a, *b]), content))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const IDENTITY: Identity = Identity { mac: MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]) };

    fn field(code: u16, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        [&code.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
    }

    /// A server's reply with an address, resolvers, a search list and time servers.
    pub(crate) fn reply() -> Vec<u8> {
        let address: Ipv6Addr = "2001:db8::50".parse().unwrap();
        let times = [600_u32, 900].map(u32::to_be_bytes).concat();
        let lease = [&address.octets()[..], &times].concat();
        let association =
            [&IDENTITY.association().to_be_bytes()[..], &[0, 0, 1, 44, 0, 0, 1, 224], &field(5, &lease)].concat();
        let server: Ipv6Addr = "2001:db8::1".parse().unwrap();
        [
            vec![7, 0, 0, 9],
            field(1, &IDENTITY.bytes()),
            field(2, b"the server"),
            field(3, &association),
            field(23, &server.octets()),
            field(24, b"\x04test\0"),
            field(56, &field(1, &server.octets())),
            field(32, &[0, 0, 2, 0x58]),
        ]
        .concat()
    }

    #[test]
    fn reply_is_read_for_what_is_of_use() {
        let message = parse(&reply(), IDENTITY).unwrap();
        let server: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!((message.kind, message.transaction, message.refused), (Kind::Reply, 9, false));
        let granted = Granted { address: "2001:db8::50".parse().unwrap(), valid: 900, renew: 300, rebind: 480 };
        assert_eq!(message.granted, Some(granted));
        let information = Information {
            nameservers: vec![server],
            search: vec!["test".to_owned()],
            ntp_servers: vec![server],
            refresh: Some(Duration::from_mins(10)),
        };
        assert_eq!(message.information, information);
    }

    #[test]
    fn what_is_for_another_or_no_answer_is_not_read() {
        assert!(parse(&reply(), Identity { mac: MacAddress([1; 6]) }).is_none());
        let mut question = reply();
        question[0] = 1;
        assert!(parse(&question, IDENTITY).is_none());
        let without_server = [vec![7, 0, 0, 9], field(1, &IDENTITY.bytes())].concat();
        assert!(parse(&without_server, IDENTITY).is_none());
    }

    #[test]
    fn refusals_are_told_wherever_they_stand() {
        let head = [vec![7, 0, 0, 9], field(1, &IDENTITY.bytes()), field(2, b"s")].concat();
        let status = field(13, &[0, 3, b'n', b'o']);
        let whole = [head.clone(), status.clone()].concat();
        assert!(parse(&whole, IDENTITY).unwrap().refused);
        let association = [&IDENTITY.association().to_be_bytes()[..], &[0; 8], &status].concat();
        assert!(parse(&[head, field(3, &association)].concat(), IDENTITY).unwrap().refused);
    }

    #[test]
    fn question_names_client_server_and_address() {
        let question = Question {
            kind: Kind::Renew,
            transaction: 0x0102_0304,
            elapsed: Duration::from_millis(1230),
            server: b"the server".to_vec(),
            address: Some("2001:db8::50".parse().unwrap()),
        };
        let bytes = encode(IDENTITY, &question);
        assert_eq!(bytes[..4], [5, 2, 3, 4]);
        let options: Vec<_> = Options(&bytes[4..]).collect();
        assert_eq!(options[0], (option::CLIENT, IDENTITY.bytes().as_slice()));
        assert_eq!(options[1], (option::SERVER, &b"the server"[..]));
        assert_eq!(options[2], (option::ELAPSED, &[0, 123][..]));
        assert_eq!(options[3].1.len(), 12 + 28);
        let informed = Question { kind: Kind::InformationRequest, ..question };
        assert!(Options(&encode(IDENTITY, &informed)[4..]).all(|(code, _)| code != option::IA_NA));
    }

    #[test]
    fn whatever_comes_in_parsing_ends() {
        let words: [&[u8]; 5] = [b"\0\x03", b"\0\x05\0\x18", b"\0\x0d\0\x02\0\x03", b"\xff\xff", b"\0\0"];
        keelson_mutation::campaign("DHCPv6", 20_000, &[reply()], &words, |bytes| {
            if let Some(message) = parse(bytes, IDENTITY) {
                assert!(message.server.len() <= IDENTITY_MAX && message.information.nameservers.len() <= SERVERS_MAX);
            }
        });
    }
}
