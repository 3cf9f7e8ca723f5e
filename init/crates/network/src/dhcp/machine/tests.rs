use dhcproto::v4::{DhcpOption, Opcode, OptionCode};
use keelson_config::MacAddress;

use super::*;

const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

/// No jitter: its middle. Ids count up.
struct Steady(u32);

impl Random for Steady {
    fn next(&mut self) -> u32 {
        self.0 += 2 * JITTER_MILLISECONDS + 1;
        self.0
    }
}

fn steady() -> Steady {
    Steady(JITTER_MILLISECONDS)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Test {
    client: Client,
    random: Steady,
}

impl Test {
    fn new(lease: Option<Lease>) -> Self {
        let identity = Identity { mac: MAC, hostname: Some("node1".into()) };
        Self { client: Client::new(identity, lease), random: steady() }
    }

    /// Bound at `now` with a lease of `seconds`.
    fn bound(now: u64, seconds: u32) -> Self {
        let mut test = Self::new(None);
        let discover = test.sent(now, Event::CarrierUp);
        let request = test.sent(now, Event::Received(offer(&discover)));
        test.handle(now, Event::Received(ack(&request, seconds)));
        assert_eq!(test.client.state(), "BOUND");
        test
    }

    fn handle(&mut self, now: u64, event: Event) -> Vec<Command> {
        self.client.handle(at(now), &mut self.random, event)
    }

    /// The one message that the event makes the client send.
    fn sent(&mut self, now: u64, event: Event) -> Message {
        self.sent_to(now, event).0
    }

    fn sent_to(&mut self, now: u64, event: Event) -> (Message, Destination) {
        let mut commands = self.handle(now, event);
        assert_eq!(commands.len(), 1, "{commands:?}");
        match commands.remove(0) {
            Command::Send { message, to } => (message, to),
            other => panic!("{other:?}"),
        }
    }

    fn deadline(&self) -> u64 {
        self.client.deadline().unwrap().as_secs()
    }

    /// When the client sends, up to `until`, if nobody answers.
    fn sends_until(&mut self, until: u64) -> Vec<(u64, MessageType)> {
        let mut sends = Vec::new();
        while let Some(next) = self.client.deadline().filter(|next| *next <= at(until)) {
            for command in self.client.handle(next, &mut self.random, Event::Timer) {
                if let Command::Send { message, .. } = command {
                    sends.push((next.as_secs(), message.opts().msg_type().unwrap()));
                }
            }
        }
        sends
    }
}

fn reply(to: &Message, kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootReply).set_xid(to.xid()).set_chaddr(&MAC.0).set_yiaddr(ADDRESS);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    message.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
    message
}

fn offer(to: &Message) -> Message {
    reply(to, MessageType::Offer)
}

fn ack(to: &Message, seconds: u32) -> Message {
    let mut message = reply(to, MessageType::Ack);
    message.opts_mut().insert(DhcpOption::AddressLeaseTime(seconds));
    message
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

fn requested(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    }
}

#[test]
fn discovers_requests_and_binds() {
    let mut test = Test::new(None);
    let discover = test.sent(100, Event::CarrierUp);
    assert_eq!(kind(&discover), MessageType::Discover);
    let request = test.sent(101, Event::Received(offer(&discover)));
    assert_eq!((kind(&request), requested(&request)), (MessageType::Request, Some(ADDRESS)));
    assert_eq!(request.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER)));
    assert_eq!((request.xid(), request.secs(), request.ciaddr()), (discover.xid(), 1, Ipv4Addr::UNSPECIFIED));
    let commands = test.handle(102, Event::Received(ack(&request, 1000)));
    let lease = test.client.lease().unwrap().clone();
    assert_eq!(commands, [Command::Apply(lease.clone())]);
    assert_eq!(lease.address.to_string(), "10.0.0.50/24");
    // From the request on, and not from the answer (RFC 2131, 4.4.1).
    assert_eq!((lease.obtained, lease.expires()), (at(101), Some(at(1101))));
    assert_eq!((test.client.state(), test.deadline()), ("BOUND", 601));
    assert_eq!(test.client.unanswered_since(), None);
}

#[test]
fn asks_a_silent_network_ever_more_rarely_and_for_ever() {
    let mut test = Test::new(None);
    test.sent(0, Event::CarrierUp);
    let sends: Vec<u64> = test.sends_until(300).into_iter().map(|(when, _)| when).collect();
    assert_eq!(sends, [2, 6, 14, 30, 62, 126, 190, 254]);
    assert_eq!(test.client.unanswered_since(), Some(at(0)));
}

#[test]
fn waits_differ_by_the_jitter_and_no_more() {
    struct Wild(u32);
    impl Random for Wild {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.0
        }
    }
    let mut random = Wild(1);
    let waits: Vec<Duration> = (0..200).map(|_| wait(3, &mut random)).collect();
    assert!(waits.iter().all(|wait| (at(7)..=at(9)).contains(wait)), "{waits:?}");
    assert!(waits.iter().max().unwrap().saturating_sub(*waits.iter().min().unwrap()) > at(1), "{waits:?}");
}

#[test]
fn gives_an_offer_up_that_is_not_honoured() {
    let mut test = Test::new(None);
    let discover = test.sent(0, Event::CarrierUp);
    test.sent(0, Event::Received(offer(&discover)));
    let kinds: Vec<MessageType> = test.sends_until(40).into_iter().map(|(_, kind)| kind).collect();
    let (request, discover) = (MessageType::Request, MessageType::Discover);
    assert_eq!(kinds[..4], [request, request, request, discover]);
}

#[test]
fn renews_at_t1_with_the_server_and_rebinds_at_t2_with_anyone() {
    let mut test = Test::bound(0, 8000);
    assert_eq!(test.deadline(), 4000);
    let (renew, to) = test.sent_to(4000, Event::Timer);
    assert_eq!((kind(&renew), renew.ciaddr(), requested(&renew)), (MessageType::Request, ADDRESS, None));
    assert!(renew.opts().get(OptionCode::ServerIdentifier).is_none());
    assert_eq!((to, test.client.state()), (Destination::Server(SERVER), "RENEWING"));
    // Half of what is left to T2 = 7000, down to a minute.
    let sends: Vec<u64> = test.sends_until(6999).into_iter().map(|(when, _)| when).collect();
    assert_eq!(sends, [5500, 6250, 6625, 6812, 6906, 6966]);
    let (rebind, to) = test.sent_to(7000, Event::Timer);
    assert_eq!((rebind.ciaddr(), to, test.client.state()), (ADDRESS, Destination::Broadcast, "REBINDING"));
    let mut late = ack(&rebind, 8000);
    late.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 2)));
    let commands = test.handle(7001, Event::Received(late));
    assert!(matches!(&commands[..], [Command::Apply(lease)] if lease.expires() == Some(at(15000))), "{commands:?}");
}

#[test]
fn a_short_lease_still_gets_several_tries() {
    let mut test = Test::bound(0, 16);
    let sends: Vec<u64> = test.sends_until(15).into_iter().map(|(when, _)| when).collect();
    assert_eq!(sends, [8, 11, 13, 14]);
}

#[test]
fn a_lease_that_ends_is_withdrawn_and_another_sought() {
    let mut test = Test::bound(0, 100);
    test.sends_until(99);
    let commands = test.handle(100, Event::Timer);
    assert!(matches!(&commands[0], Command::Withdraw(lease, Lost::Expired) if lease.address.addr() == ADDRESS));
    assert!(matches!(&commands[1], Command::Send { message, .. } if kind(message) == MessageType::Discover));
    assert_eq!((test.client.lease(), test.client.state(), commands.len()), (None, "SELECTING", 2));
}

#[test]
fn a_lease_for_ever_never_ends() {
    let test = Test::bound(0, u32::MAX);
    assert_eq!((test.client.deadline(), test.client.lease().unwrap().duration), (None, None));
}

#[test]
fn a_refusal_withdraws_the_lease_and_waits_before_asking_anew() {
    let mut test = Test::bound(0, 1000);
    let renew = test.sent(500, Event::Timer);
    let commands = test.handle(501, Event::Received(reply(&renew, MessageType::Nak)));
    assert!(matches!(&commands[..], [Command::Withdraw(_, Lost::Refused)]), "{commands:?}");
    assert_eq!(test.deadline(), 502);
    assert_eq!(kind(&test.sent(502, Event::Timer)), MessageType::Discover);
}

#[test]
fn client_and_server_do_not_quarrel_at_full_speed() {
    let mut test = Test::new(None);
    let mut now = 0;
    let mut message = test.sent(now, Event::CarrierUp);
    let mut waits = Vec::new();
    for _ in 0..9 {
        let request = test.sent(now, Event::Received(offer(&message)));
        assert_eq!(test.handle(now, Event::Received(reply(&request, MessageType::Nak))), []);
        waits.push(test.deadline() - now);
        now = test.deadline();
        message = test.sent(now, Event::Timer);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
}

#[test]
fn carrier_loss_keeps_the_lease_and_its_return_asks_for_the_same() {
    let mut test = Test::bound(0, 1000);
    assert_eq!(test.handle(10, Event::CarrierDown), []);
    assert!(test.client.lease().is_some());
    let (request, to) = test.sent_to(20, Event::CarrierUp);
    assert_eq!(
        (kind(&request), requested(&request), request.ciaddr()),
        (MessageType::Request, Some(ADDRESS), Ipv4Addr::UNSPECIFIED)
    );
    assert!(request.opts().get(OptionCode::ServerIdentifier).is_none());
    assert_eq!((to, test.client.state()), (Destination::Broadcast, "REBOOTING"));
    let commands = test.handle(21, Event::Received(ack(&request, 1000)));
    assert!(matches!(&commands[..], [Command::Apply(lease)] if lease.obtained == at(20)));
}

#[test]
fn a_lease_ends_without_carrier_too() {
    let mut test = Test::bound(0, 100);
    test.handle(10, Event::CarrierDown);
    assert_eq!(test.deadline(), 100);
    let commands = test.handle(100, Event::Timer);
    assert!(matches!(&commands[..], [Command::Withdraw(_, Lost::Expired)]), "{commands:?}");
    assert_eq!(kind(&test.sent(200, Event::CarrierUp)), MessageType::Discover);
}

#[test]
fn a_held_lease_is_kept_while_another_is_sought_and_replaced_in_one_step() {
    let held = Test::bound(0, 1000).client.lease.unwrap();
    let mut test = Test::new(Some(held.clone()));
    test.sent(10, Event::CarrierUp);
    let sends = test.sends_until(60);
    assert_eq!(sends.last().unwrap().1, MessageType::Discover);
    assert_eq!((test.client.state(), test.client.lease()), ("SELECTING", Some(&held)));
    assert_eq!(test.client.unanswered_since(), Some(at(10)));
    let next = test.deadline();
    let discover = test.sent(next, Event::Timer);
    let other = Ipv4Addr::new(10, 0, 0, 99);
    let mut better = offer(&discover);
    better.set_yiaddr(other);
    let request = test.sent(next, Event::Received(better));
    let mut granted = ack(&request, 1000);
    granted.set_yiaddr(other);
    let commands = test.handle(next, Event::Received(granted));
    assert!(matches!(&commands[..], [Command::Apply(lease)] if lease.address.addr() == other), "{commands:?}");
}

#[test]
fn a_held_lease_ends_while_another_is_sought() {
    let mut test = Test::new(Test::bound(0, 100).client.lease);
    test.sent(10, Event::CarrierUp);
    test.sends_until(99);
    let mut withdrawn = 0;
    while let Some(next) = test.client.deadline().filter(|next| *next < at(300)) {
        let commands = test.client.handle(next, &mut test.random, Event::Timer);
        withdrawn += commands.iter().filter(|command| matches!(command, Command::Withdraw(..))).count();
    }
    assert_eq!((withdrawn, test.client.state()), (1, "SELECTING"));
}

#[test]
fn ignores_what_is_not_for_it_or_makes_no_sense() {
    let mut test = Test::new(None);
    let discover = test.sent(0, Event::CarrierUp);
    let mut other = offer(&discover);
    other.set_xid(discover.xid() + 1);
    let mut nameless = offer(&discover);
    nameless.opts_mut().remove(OptionCode::ServerIdentifier);
    let mut nowhere = offer(&discover);
    nowhere.set_yiaddr(Ipv4Addr::UNSPECIFIED);
    for (message, why) in
        [(other, "another's"), (nameless, "no server"), (nowhere, "no address"), (ack(&discover, 9), "an ACK")]
    {
        assert_eq!(test.handle(0, Event::Received(message)), [], "{why}");
    }
    let request = test.sent(0, Event::Received(offer(&discover)));
    let mut elsewhere = ack(&request, 1000);
    elsewhere.set_yiaddr(Ipv4Addr::new(10, 0, 0, 51));
    let mut endless = ack(&request, 1000);
    endless.opts_mut().remove(OptionCode::AddressLeaseTime);
    let mut impostor = reply(&request, MessageType::Nak);
    impostor.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 66)));
    for (message, why) in
        [(elsewhere, "another address"), (endless, "no lease time"), (impostor, "another server's NAK")]
    {
        assert_eq!(test.handle(0, Event::Received(message)), [], "{why}");
    }
    assert_eq!(test.client.state(), "REQUESTING");
}

#[test]
fn early_and_repeated_events_do_no_harm() {
    let mut test = Test::bound(0, 1000);
    assert_eq!(test.handle(1, Event::CarrierUp), []);
    assert_eq!(test.handle(1, Event::Timer), []);
    assert_eq!(test.handle(499, Event::Timer), []);
    assert_eq!(test.client.state(), "BOUND");
}

/// Whatever comes in whatever order: an address is applied exactly while there is a lease, and the client always has a
/// next step unless it has no carrier.
#[test]
fn any_sequence_keeps_lease_and_commands_in_step() {
    for seed in 1..400u32 {
        let mut random = steady();
        let mut test = Test::new(None);
        let mut dice = seed.wrapping_mul(2_654_435_761) | 1;
        let (mut now, mut applied, mut carrier) = (Duration::ZERO, None::<Lease>, false);
        let mut last = Message::default();
        for _ in 0..200 {
            dice ^= dice << 13;
            dice ^= dice >> 17;
            dice ^= dice << 5;
            let event = match dice % 8 {
                0 => {
                    carrier = true;
                    Event::CarrierUp
                }
                1 => {
                    carrier = false;
                    Event::CarrierDown
                }
                2 => Event::Received(reply(&last, MessageType::Nak)),
                3 => Event::Received(offer(&last)),
                4 => Event::Received(ack(&last, 20 + dice % 600)),
                _ => {
                    now = test.client.deadline().unwrap_or(now).max(now);
                    Event::Timer
                }
            };
            now += Duration::from_millis(u64::from(dice % 3000));
            for command in test.client.handle(now, &mut random, event) {
                match command {
                    Command::Send { message, .. } => last = message,
                    Command::Apply(lease) => applied = Some(lease),
                    Command::Withdraw(lease, _) => assert_eq!(applied.take(), Some(lease), "seed {seed}"),
                }
            }
            assert_eq!(applied.as_ref(), test.client.lease(), "seed {seed}");
            assert!(
                applied.as_ref().is_none_or(|lease| !lease.has_expired(now)),
                "seed {seed}: an ended lease is applied"
            );
            assert!(!carrier || test.client.deadline().is_some(), "seed {seed}: stuck in {}", test.client.state());
        }
    }
}
