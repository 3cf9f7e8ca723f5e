use proptest::prelude::*;

use super::*;

const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);

fn identity() -> Identity {
    Identity { mac: MAC, hostname: Some("node1".into()) }
}

/// An acknowledgement with these options beside the necessary ones.
fn ack(options: Vec<DhcpOption>) -> Message {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootReply).set_chaddr(&MAC.0).set_yiaddr(Ipv4Addr::new(10, 0, 0, 50));
    let necessary = [
        DhcpOption::MessageType(MessageType::Ack),
        DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 1)),
        DhcpOption::AddressLeaseTime(1000),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 0, 0)),
    ];
    for option in necessary.into_iter().chain(options) {
        message.opts_mut().insert(option);
    }
    message
}

fn granted(options: Vec<DhcpOption>) -> Lease {
    lease(&ack(options), Duration::from_secs(5)).unwrap()
}

#[test]
fn reads_a_whole_lease() {
    let lease = granted(vec![
        DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::UNSPECIFIED]),
        DhcpOption::NtpServers(vec![Ipv4Addr::new(10, 0, 0, 4)]),
        DhcpOption::DomainName("Example.COM lab.example.\0".into()),
        DhcpOption::Hostname("node7".into()),
        DhcpOption::InterfaceMtu(1400),
    ]);
    assert_eq!(lease.address.to_string(), "10.0.0.50/16");
    assert_eq!(lease.gateway(), Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(lease.nameservers, [Ipv4Addr::new(10, 0, 0, 3)]);
    assert_eq!(lease.ntp_servers, [Ipv4Addr::new(10, 0, 0, 4)]);
    assert_eq!(lease.search, ["example.com", "lab.example"]);
    assert_eq!((lease.hostname.as_deref(), lease.mtu), (Some("node7"), Some(1400)));
    assert_eq!(lease.renew_after, Duration::from_secs(500));
    assert_eq!(lease.rebind_after, Duration::from_secs(875));
}

#[test]
fn classless_routes_replace_the_router() {
    let lease = granted(vec![
        DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 1)]),
        DhcpOption::ClasslessStaticRoute(vec![("10.7.1.9/16".parse().unwrap(), Ipv4Addr::UNSPECIFIED)]),
    ]);
    let on_link = LeaseRoute { destination: "10.7.0.0/16".parse().unwrap(), gateway: None };
    assert_eq!((lease.gateway(), lease.routes), (None, vec![on_link]));
}

#[test]
fn takes_the_servers_timers_only_if_they_are_in_order() {
    let timers = |renew, rebind| {
        let lease = granted(vec![DhcpOption::Renewal(renew), DhcpOption::Rebinding(rebind)]);
        (lease.renew_after.as_secs(), lease.rebind_after.as_secs())
    };
    assert_eq!(timers(100, 200), (100, 200));
    for (renew, rebind) in [(200, 100), (0, 100), (100, 1000), (2000, 3000)] {
        assert_eq!(timers(renew, rebind), (500, 875), "{renew} {rebind}");
    }
}

#[test]
fn a_foreign_name_cannot_write_into_the_resolver_file() {
    for name in ["a\nnameserver 6.6.6.6", "a;b", "$(x)", "..", ""] {
        assert_eq!(granted(vec![DhcpOption::DomainName(name.into())]).search, Vec::<String>::new(), "{name:?}");
    }
    assert_eq!(granted(vec![DhcpOption::Hostname("a b".into())]).hostname, None);
}

#[test]
fn odd_values_get_sane_ones() {
    let lease = granted(vec![
        DhcpOption::AddressLeaseTime(0),
        DhcpOption::InterfaceMtu(68),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0)),
    ]);
    assert_eq!((lease.duration, lease.mtu), (Some(LEASE_MIN), None));
    assert_eq!(lease.address.prefix_len(), 8, "a mask with holes: the class");
}

#[test]
fn parses_only_replies_to_this_link() {
    let bytes = encode(&ack(Vec::new()));
    assert!(parse(&bytes, MAC).is_some());
    assert!(parse(&bytes, MacAddress([0; 6])).is_none(), "another's");
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        parse(&bytes, MAC)
    };
    assert!(changed(0, 1).is_none(), "a request");
    assert!(changed(1, 6).is_none(), "other hardware");
    assert!(changed(2, 200).is_none(), "a hardware address of 200 bytes");
    assert!(changed(236, 0).is_none(), "BOOTP without options");
}

#[test]
fn options_in_pieces_are_one_and_unused_ones_are_not_looked_at() {
    let mut bytes = encode(&ack(Vec::new()));
    bytes.truncate(HEADER);
    // Client FQDN and two more, of sizes that dhcproto does not survive.
    bytes.extend([81, 1, 0, 151, 0, 154, 1, 9]);
    bytes.extend([53, 1, 5, 0, 6, 4, 10, 0, 0, 3, 54, 4, 10, 0, 0, 1, 6, 4, 10, 0, 0, 4, 51, 4, 0, 0, 1, 0, 255, 6, 4]);
    let lease = lease(&parse(&bytes, MAC).unwrap(), Duration::ZERO).unwrap();
    assert_eq!(lease.nameservers, [Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 4)]);
    assert_eq!(lease.duration, Some(Duration::from_secs(256)));
}

#[test]
fn a_question_survives_the_wire() {
    let select = Question::Select { address: Ipv4Addr::new(10, 0, 0, 5), server: Ipv4Addr::new(10, 0, 0, 1) };
    for asked in [Question::Discover, select, Question::Reboot { address: Ipv4Addr::new(10, 0, 0, 5) }] {
        let message = question(&identity(), 7, 3, asked);
        assert_eq!(Message::from_bytes(&encode(&message)).unwrap(), message);
        assert!(encode(&message).len() < 576, "any relay must be able to pass it on");
    }
}

/// A slice; `PROPTEST_CASES` asks for more, and `KEELSON_FUZZ_INPUTS` as for the other parsers of foreign bytes.
fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var("KEELSON_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(default.cases.max(5000)), ..default }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn parsing_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..300), header: [u8; 32]) {
        let mut bytes = encode(&ack(Vec::new()));
        bytes.truncate(HEADER);
        bytes[3..28].copy_from_slice(&header[..25]);
        bytes.extend(tail);
        if let Some(message) = parse(&bytes, MAC) {
            let _ = (offer(&message), lease(&message, Duration::ZERO));
        }
    }

    /// Options of a lease, with one byte after another turned.
    #[test]
    fn mutated_leases_never_panic(at in 0usize..600, value: u8, cut in 0usize..600) {
        let mut bytes = encode(&ack(vec![
            DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 1)]),
            DhcpOption::DomainName("a.example".into()),
            DhcpOption::ClasslessStaticRoute(vec![("10.7.0.0/16".parse().unwrap(), Ipv4Addr::new(10, 0, 0, 1))]),
            DhcpOption::Renewal(10),
        ]));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut.max(HEADER));
        if let Some(message) = parse(&bytes, MAC)
            && let Some(lease) = lease(&message, Duration::MAX / 4)
        {
            prop_assert!(lease.renew_after <= lease.rebind_after);
            let _ = (lease.expires(), lease.gateway());
        }
    }
}
