//! The client's side of RFC 2131 for one link, without I/O and without a clock: events and the time in, commands out.
//!
//! | phase        | meaning                                  | leaves by                                              |
//! |--------------|------------------------------------------|--------------------------------------------------------|
//! | `Stopped`    | no carrier                               | carrier: `Rebooting` with a lease, else `Selecting`    |
//! | `Pausing`    | refused, waits before it asks anew       | time: `Selecting`                                      |
//! | `Selecting`  | DISCOVER sent                            | offer: `Requesting`                                    |
//! | `Requesting` | REQUEST for an offer sent                | ACK: `Bound`; NAK: `Pausing`; silence: `Selecting`     |
//! | `Rebooting`  | REQUEST for the lease held (INIT-REBOOT) | ACK: `Bound`; NAK: `Pausing`; silence: `Selecting`     |
//! | `Bound`      |                                          | T1: `Renewing`                                         |
//! | `Renewing`   | REQUEST to the server that granted       | ACK: `Bound`; NAK: `Pausing`; T2: `Rebinding`          |
//! | `Rebinding`  | REQUEST to anyone                        | ACK: `Bound`; NAK: `Pausing`                           |
//!
//! Invariants: an address is applied exactly while [`Client::lease`] is `Some`. A lease is given up when it expires or
//! when its server refuses it, and at no other time: loss of carrier, silence after a return and a restart of the daemon
//! keep it, because a working address is worth more than certainty about it (RFC 2131, 3.2, allows it). From `Selecting`
//! a new lease then replaces the old in one step.
//!
//! Not done: DHCPDECLINE after an ARP probe, DHCPRELEASE (a node keeps its address over a reboot), DHCPINFORM.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{Message, MessageType};

use crate::dhcp::lease::Lease;
use crate::dhcp::message::{self, Identity, Question};

/// RFC 2131, 4.1 would wait 4 s; on a switched network an answer takes milliseconds, and the boot waits for it.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(64);
/// Each wait is off by up to this, so that a rack that gets its power back does not ask in step.
const JITTER_MILLISECONDS: u32 = 1000;
/// Tries for one offer, or for the lease held, before starting over.
const REQUEST_TRIES: u32 = 4;
const REBOOT_TRIES: u32 = 3;
/// RFC 2131, 4.4.5: no more often than once a minute while renewing; less if the lease is too short for that.
const RENEW_RETRY_MIN: Duration = Duration::from_mins(1);
const RENEW_RETRIES_OF_SHORT_LEASE: u32 = 8;
/// The wait after a refusal doubles from here to `RETRY_MAX`, lest client and server quarrel at full speed.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// Where the client gets its transaction ids and its jitter from.
pub trait Random {
    fn next(&mut self) -> u32;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    CarrierUp,
    CarrierDown,
    Received(Message),
    /// The time that [`Client::deadline`] named has come; coming early does no harm.
    Timer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Send {
        message: Message,
        to: Destination,
    },
    /// Put this lease into effect, in the place of the one before.
    Apply(Lease),
    /// Take the lease out of effect.
    Withdraw(Lease, Lost),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// As a frame: the link may have no address.
    Broadcast,
    /// From the leased address.
    Server(Ipv4Addr),
}

/// Why a lease is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    Expired,
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Stopped,
    Pausing { until: Duration },
    Selecting(Asking),
    Requesting { asking: Asking, address: Ipv4Addr, server: Ipv4Addr },
    Rebooting(Asking),
    Bound,
    Renewing(Asking),
    Rebinding(Asking),
}

/// A question that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asking {
    xid: u32,
    /// How often it was sent.
    tries: u32,
    /// When it was sent last: a lease counts from here, not from the answer.
    sent: Duration,
    /// When to send it again.
    next: Duration,
}

#[derive(Debug)]
pub struct Client {
    identity: Identity,
    phase: Phase,
    lease: Option<Lease>,
    /// Since when the client has been asking without an answer.
    asking_since: Option<Duration>,
    pause: Duration,
}

impl Client {
    /// A client of a link without carrier, with the lease that an earlier daemon left, if any. That lease counts as
    /// applied.
    pub fn new(identity: Identity, lease: Option<Lease>) -> Self {
        Self { identity, phase: Phase::Stopped, lease, asking_since: None, pause: PAUSE_FIRST }
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Since when no server has answered; `None` while nothing is asked or only an extension is.
    pub fn unanswered_since(&self) -> Option<Duration> {
        self.asking_since
    }

    /// The state's name in RFC 2131's figure 5.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Stopped | Phase::Pausing { .. } => "INIT",
            Phase::Selecting(_) => "SELECTING",
            Phase::Requesting { .. } => "REQUESTING",
            Phase::Rebooting(_) => "REBOOTING",
            Phase::Bound => "BOUND",
            Phase::Renewing(_) => "RENEWING",
            Phase::Rebinding(_) => "REBINDING",
        }
    }

    /// When the next [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        let expires = self.lease.as_ref().and_then(Lease::expires);
        let own = match &self.phase {
            Phase::Stopped => None,
            Phase::Pausing { until } => Some(*until),
            Phase::Selecting(asking)
            | Phase::Rebooting(asking)
            | Phase::Requesting { asking, .. }
            | Phase::Rebinding(asking) => Some(asking.next),
            Phase::Bound => self.renew_at(),
            Phase::Renewing(asking) => earlier(Some(asking.next), self.rebind_at()),
        };
        earlier(own, expires)
    }

    pub fn handle(&mut self, now: Duration, random: &mut impl Random, event: Event) -> Vec<Command> {
        let mut commands = self.expire(now, random);
        match event {
            Event::CarrierUp if self.phase == Phase::Stopped => commands.extend(self.start(now, random)),
            Event::CarrierUp => {}
            Event::CarrierDown => {
                self.phase = Phase::Stopped;
                self.asking_since = None;
            }
            Event::Received(message) => commands.extend(self.receive(now, random, &message)),
            Event::Timer => commands.extend(self.tick(now, random)),
        }
        commands
    }

    fn renew_at(&self) -> Option<Duration> {
        self.lease.as_ref().and_then(|lease| lease.duration.map(|_| lease.obtained + lease.renew_after))
    }

    fn rebind_at(&self) -> Option<Duration> {
        self.lease.as_ref().and_then(|lease| lease.duration.map(|_| lease.obtained + lease.rebind_after))
    }

    fn expire(&mut self, now: Duration, random: &mut impl Random) -> Vec<Command> {
        let Some(lease) = self.lease.take_if(|lease| lease.has_expired(now)) else { return Vec::new() };
        let mut commands = vec![Command::Withdraw(lease, Lost::Expired)];
        if matches!(self.phase, Phase::Rebooting(_) | Phase::Bound | Phase::Renewing(_) | Phase::Rebinding(_)) {
            commands.extend(self.discover(now, random));
        }
        commands
    }

    fn start(&mut self, now: Duration, random: &mut impl Random) -> Vec<Command> {
        let Some(address) = self.lease.as_ref().map(|lease| lease.address.addr()) else {
            return self.discover(now, random);
        };
        let asking = ask(now, random, 1);
        self.asking_since = Some(now);
        self.phase = Phase::Rebooting(asking);
        vec![self.send(now, asking.xid, Question::Reboot { address }, Destination::Broadcast)]
    }

    fn discover(&mut self, now: Duration, random: &mut impl Random) -> Vec<Command> {
        let asking = ask(now, random, 1);
        self.asking_since.get_or_insert(now);
        self.phase = Phase::Selecting(asking);
        vec![self.send(now, asking.xid, Question::Discover, Destination::Broadcast)]
    }

    fn send(&self, now: Duration, xid: u32, question: Question, to: Destination) -> Command {
        let seconds = now.saturating_sub(self.asking_since.unwrap_or(now)).as_secs();
        let seconds = u16::try_from(seconds).unwrap_or(u16::MAX);
        Command::Send { message: message::question(&self.identity, xid, seconds, question), to }
    }

    /// What is due at `now`.
    fn tick(&mut self, now: Duration, random: &mut impl Random) -> Vec<Command> {
        match self.phase.clone() {
            Phase::Pausing { until } if now >= until => self.discover(now, random),
            Phase::Selecting(asking) if now >= asking.next => {
                let asking = again(asking, now, random);
                self.phase = Phase::Selecting(asking);
                vec![self.send(now, asking.xid, Question::Discover, Destination::Broadcast)]
            }
            Phase::Requesting { asking, .. } if now >= asking.next && asking.tries >= REQUEST_TRIES => {
                self.discover(now, random)
            }
            Phase::Requesting { asking, address, server } if now >= asking.next => {
                let asking = again(asking, now, random);
                self.phase = Phase::Requesting { asking, address, server };
                vec![self.send(now, asking.xid, Question::Select { address, server }, Destination::Broadcast)]
            }
            Phase::Rebooting(asking) if now >= asking.next && asking.tries >= REBOOT_TRIES => {
                self.discover(now, random)
            }
            Phase::Rebooting(asking) if now >= asking.next => match &self.lease {
                Some(lease) => {
                    let question = Question::Reboot { address: lease.address.addr() };
                    let asking = again(asking, now, random);
                    self.phase = Phase::Rebooting(asking);
                    vec![self.send(now, asking.xid, question, Destination::Broadcast)]
                }
                None => self.discover(now, random),
            },
            Phase::Bound if self.renew_at().is_some_and(|renew| now >= renew) => self.extend(now, random, None),
            Phase::Renewing(asking) if now >= asking.next || self.rebind_at().is_some_and(|rebind| now >= rebind) => {
                self.extend(now, random, Some(asking))
            }
            Phase::Rebinding(asking) if now >= asking.next => self.extend(now, random, Some(asking)),
            _ => Vec::new(),
        }
    }

    /// Asks for a longer lease: the server until T2, then everyone until the lease ends.
    fn extend(&mut self, now: Duration, random: &mut impl Random, asking: Option<Asking>) -> Vec<Command> {
        let (Some(lease), Some(rebind), Some(expires)) =
            (self.lease.clone(), self.rebind_at(), self.lease.as_ref().and_then(Lease::expires))
        else {
            return Vec::new();
        };
        let rebinding = now >= rebind;
        let end = if rebinding { expires } else { rebind };
        // Half of what is left, as RFC 2131 says, but a short lease still gets several tries.
        let shortest = RENEW_RETRY_MIN.min(lease.duration.unwrap_or(Duration::MAX) / RENEW_RETRIES_OF_SHORT_LEASE);
        let xid = asking.map_or_else(|| random.next(), |asking| asking.xid);
        let wait = (end.saturating_sub(now) / 2).max(shortest);
        let asking = Asking { xid, tries: asking.map_or(1, |asking| asking.tries + 1), sent: now, next: now + wait };
        let (phase, to) = if rebinding {
            (Phase::Rebinding(asking), Destination::Broadcast)
        } else {
            (Phase::Renewing(asking), Destination::Server(lease.server))
        };
        self.phase = phase;
        vec![self.send(now, xid, Question::Extend { address: lease.address.addr() }, to)]
    }

    fn receive(&mut self, now: Duration, random: &mut impl Random, message: &Message) -> Vec<Command> {
        let Some(kind) = message.opts().msg_type() else { return Vec::new() };
        match (self.phase.clone(), kind) {
            (Phase::Selecting(asking), MessageType::Offer) if message.xid() == asking.xid => {
                let Some((address, server)) = message::offer(message) else { return Vec::new() };
                // The transaction's id stays: request and offer belong together (RFC 2131, table 5).
                let asking = Asking { xid: asking.xid, ..ask(now, random, 1) };
                self.phase = Phase::Requesting { asking, address, server };
                vec![self.send(now, asking.xid, Question::Select { address, server }, Destination::Broadcast)]
            }
            (Phase::Requesting { asking, address, server }, MessageType::Ack) if message.xid() == asking.xid => {
                let granted = message::lease(message, asking.sent)
                    .filter(|lease| lease.server == server && lease.address.addr() == address);
                self.bind(granted)
            }
            (Phase::Rebooting(asking) | Phase::Renewing(asking) | Phase::Rebinding(asking), MessageType::Ack)
                if message.xid() == asking.xid =>
            {
                let held = self.lease.as_ref().map(|lease| lease.address.addr());
                let granted = message::lease(message, asking.sent).filter(|lease| Some(lease.address.addr()) == held);
                self.bind(granted)
            }
            (Phase::Requesting { asking, server, .. }, MessageType::Nak)
                if message.xid() == asking.xid && message::server(message) == Some(server) =>
            {
                // Only the offer was refused; a lease that is held besides is another server's.
                self.pause(now);
                Vec::new()
            }
            (Phase::Rebooting(asking) | Phase::Renewing(asking) | Phase::Rebinding(asking), MessageType::Nak)
                if message.xid() == asking.xid =>
            {
                self.pause(now);
                self.lease.take().map(|lease| Command::Withdraw(lease, Lost::Refused)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn bind(&mut self, granted: Option<Lease>) -> Vec<Command> {
        let Some(lease) = granted else { return Vec::new() };
        self.phase = Phase::Bound;
        self.asking_since = None;
        self.pause = PAUSE_FIRST;
        self.lease = Some(lease.clone());
        vec![Command::Apply(lease)]
    }

    fn pause(&mut self, now: Duration) {
        self.phase = Phase::Pausing { until: now + self.pause };
        self.pause = (self.pause * 2).min(RETRY_MAX);
        self.asking_since.get_or_insert(now);
    }
}

fn ask(now: Duration, random: &mut impl Random, tries: u32) -> Asking {
    let xid = random.next();
    Asking { xid, tries, sent: now, next: now + wait(tries, random) }
}

fn again(asking: Asking, now: Duration, random: &mut impl Random) -> Asking {
    let tries = asking.tries.saturating_add(1);
    Asking { xid: asking.xid, tries, sent: now, next: now + wait(tries, random) }
}

/// Doubles with each try, give or take the jitter.
fn wait(tries: u32, random: &mut impl Random) -> Duration {
    let doubled = 2u32.checked_pow(tries.saturating_sub(1)).and_then(|factor| RETRY_FIRST.checked_mul(factor));
    let base = doubled.unwrap_or(RETRY_MAX).min(RETRY_MAX);
    let spread = u64::from(random.next() % (2 * JITTER_MILLISECONDS + 1));
    (base + Duration::from_millis(spread)).saturating_sub(Duration::from_millis(u64::from(JITTER_MILLISECONDS)))
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;
