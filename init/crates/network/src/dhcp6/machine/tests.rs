use super::*;
use crate::dhcp6::message::parse;
use crate::dhcp6::message::tests::{IDENTITY, reply};

/// Counts up; jitter is then small and known.
struct Counting(u32);

impl Random for Counting {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

const START: Duration = Duration::from_secs(1000);

struct World {
    client: Client,
    random: Counting,
    now: Duration,
}

impl World {
    fn new(mode: Mode) -> Self {
        let mut world = Self { client: Client::new(IDENTITY), random: Counting(0), now: START };
        assert_eq!(world.tell(Event::Mode(mode)), [], "nothing without a carrier");
        world
    }

    fn tell(&mut self, event: Event) -> Vec<Command> {
        self.client.handle(self.now, &mut self.random, event)
    }

    fn pass(&mut self, time: Duration) -> Vec<Command> {
        self.now += time;
        self.tell(Event::Timer)
    }

    /// The kind of the one message that was sent.
    fn asked(commands: &[Command]) -> u8 {
        let sent: Vec<u8> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Send(bytes) => bytes.first().copied(),
                _ => None,
            })
            .collect();
        assert_eq!(sent.len(), 1, "{commands:?}");
        sent[0]
    }

    /// The server's answer to the question that was asked last.
    fn answer(&mut self, commands: &[Command], kind: Kind, change: impl FnOnce(&mut Message)) -> Vec<Command> {
        let sent = commands.iter().find_map(|command| match command {
            Command::Send(bytes) => Some(bytes),
            _ => None,
        });
        let bytes = sent.expect("a question");
        let transaction = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]);
        let mut message = Message { kind, transaction, ..parse(&reply(), IDENTITY).unwrap() };
        change(&mut message);
        self.tell(Event::Received(message))
    }

    fn bound() -> Self {
        let mut world = Self::new(Mode::Addresses);
        let asked = world.tell(Event::CarrierUp);
        assert_eq!(Self::asked(&asked), 1);
        let asked = world.answer(&asked, Kind::Advertise, |_| ());
        assert_eq!(Self::asked(&asked), 3);
        let applied = world.answer(&asked, Kind::Reply, |_| ());
        assert!(matches!(applied.as_slice(), [Command::Apply(lease)] if lease.address == address()), "{applied:?}");
        world
    }
}

fn address() -> Ipv6Addr {
    "2001:db8::50".parse().unwrap()
}

#[test]
fn address_is_had_by_four_messages_and_renewed_in_time() {
    let mut world = World::bound();
    assert_eq!(world.client.information().nameservers.len(), 1);
    assert_eq!(world.client.deadline(), Some(START + Duration::from_mins(5)));
    let asked = world.pass(Duration::from_mins(5));
    assert_eq!(World::asked(&asked), 5);
    let applied = world.answer(&asked, Kind::Reply, |_| ());
    assert!(matches!(applied.as_slice(), [Command::Apply(_)]));
    assert_eq!(world.client.lease().unwrap().remaining(world.now), Some(Duration::from_mins(15)));
}

#[test]
fn silent_server_is_left_for_any_and_the_lease_ends_with_its_time() {
    let mut world = World::bound();
    assert_eq!(World::asked(&world.pass(Duration::from_mins(5))), 5);
    assert_eq!(World::asked(&world.pass(Duration::from_mins(3))), 6, "T2");
    let ended = world.pass(Duration::from_mins(7));
    assert!(matches!(ended.first(), Some(Command::Withdraw(lease)) if lease.address == address()), "{ended:?}");
    assert_eq!(World::asked(&ended), 1);
    assert!(world.client.lease().is_none());
}

#[test]
fn refusal_gives_the_address_up_and_asks_anew_after_a_pause() {
    let mut world = World::bound();
    let asked = world.pass(Duration::from_mins(5));
    let refused = world.answer(&asked, Kind::Reply, |message| message.refused = true);
    assert!(matches!(refused.as_slice(), [Command::Withdraw(_)]), "{refused:?}");
    assert_eq!(World::asked(&world.pass(Duration::from_secs(2))), 1);
}

#[test]
fn carrier_that_returns_has_the_address_confirmed() {
    let mut world = World::bound();
    assert_eq!(world.tell(Event::CarrierDown), []);
    assert!(world.client.lease().is_some(), "it stays");
    assert_eq!(World::asked(&world.tell(Event::CarrierUp)), 6);
}

#[test]
fn information_alone_is_asked_for_and_refreshed() {
    let mut world = World::new(Mode::Information);
    let asked = world.tell(Event::CarrierUp);
    assert_eq!(World::asked(&asked), 11);
    assert_eq!(world.answer(&asked, Kind::Reply, |_| ()), []);
    assert_eq!(world.client.information().search, ["test"]);
    assert!(world.client.lease().is_none());
    assert_eq!(World::asked(&world.pass(Duration::from_mins(10))), 11);
}

#[test]
fn unanswered_questions_are_repeated_at_growing_intervals() {
    let mut world = World::new(Mode::Information);
    assert_eq!(World::asked(&world.tell(Event::CarrierUp)), 11);
    let mut last = world.now;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let deadline = world.client.deadline().unwrap();
        waits.push(deadline.saturating_sub(last));
        last = deadline;
        world.now = deadline;
        assert_eq!(World::asked(&world.tell(Event::Timer)), 11);
    }
    assert!(waits[0] < Duration::from_millis(1200) && waits[9] <= RETRY_MAX + RETRY_MAX / 10, "{waits:?}");
    assert!(waits[6] > waits[0] * 30, "{waits:?}");
}

#[test]
fn routers_that_no_longer_ask_for_it_end_it() {
    let mut world = World::bound();
    let ended = world.tell(Event::Mode(Mode::Nothing));
    assert!(matches!(ended.as_slice(), [Command::Withdraw(_)]));
    assert_eq!(world.client.information(), &Information::default());
    assert_eq!(world.client.deadline(), None);
}

#[test]
fn answers_to_nothing_that_was_asked_change_nothing() {
    let mut world = World::bound();
    let stray = Message { transaction: 77, ..parse(&reply(), IDENTITY).unwrap() };
    assert_eq!(world.tell(Event::Received(stray)), []);
}
