//! The client's side of RFC 8415 for one link, without I/O and without a clock: events and the time in, commands out.
//!
//! | phase        | meaning                                      | leaves by                                              |
//! |--------------|----------------------------------------------|--------------------------------------------------------|
//! | `Idle`       | no carrier, or no router asks for DHCPv6     | both: `Soliciting`, `Rebinding` with a lease, `Asking` |
//! | `Soliciting` | SOLICIT sent                                 | an advertisement with an address: `Requesting`         |
//! | `Requesting` | REQUEST to its server sent                   | reply: `Bound`; refusal or silence: `Soliciting`       |
//! | `Bound`      |                                              | T1: `Renewing`                                         |
//! | `Renewing`   | RENEW to the server that granted             | reply: `Bound`; refusal: `Soliciting`; T2: `Rebinding` |
//! | `Rebinding`  | REBIND to anyone                             | reply: `Bound`; refusal: `Soliciting`                  |
//! | `Asking`     | INFORMATION-REQUEST sent                     | reply: `Informed`                                      |
//! | `Informed`   | knows resolvers, has its address otherwise   | time: `Asking`                                         |
//!
//! A lease is given up when it expires, when a server refuses it, and when the routers no longer ask for DHCPv6 addresses; not when
//! the carrier goes. After that came back, servers are asked by REBIND whether it still holds.
//!
//! Not done: CONFIRM and DECLINE, RECONFIGURE, prefix delegation, several servers' advertisements compared: the first that offers
//! an address is taken.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::message::{Granted, Identity, Information, Kind, Message, Question, encode};
use crate::dhcp::machine::Random;

/// RFC 8415, 7.6 has an hour as the longest wait; a node without a resolver is of little use for so long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(2);
const RENEW_FIRST: Duration = Duration::from_secs(10);
const REQUEST_TRIES: u32 = 5;
/// How long information without a time of its own is good for (RFC 8415, 21.23), and how soon it may be asked for again.
const REFRESH: Duration = Duration::from_hours(24);
const REFRESH_MIN: Duration = Duration::from_mins(10);
/// All ones are "for ever" in a lease's times.
const FOR_EVER: u32 = u32::MAX;

/// What the routers ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Nothing,
    /// Resolvers and the like.
    Information,
    /// An address, and all else.
    Addresses,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Mode(Mode),
    CarrierUp,
    CarrierDown,
    Received(Message),
    /// The time that [`Client::deadline`] named has come; coming early does no harm.
    Timer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To all servers and relays of the link.
    Send(Vec<u8>),
    /// Put this lease's address into effect, or prolong it.
    Apply(Lease),
    /// Take it out of effect.
    Withdraw(Lease),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv6Addr,
    /// `None` is for ever.
    pub expires: Option<Duration>,
    renew: Option<Duration>,
    rebind: Option<Duration>,
    server: Vec<u8>,
}

impl Lease {
    fn new(granted: Granted, server: Vec<u8>, now: Duration) -> Self {
        let at = |seconds: u32| (seconds != FOR_EVER).then(|| now + Duration::from_secs(seconds.into()));
        let Granted { address, valid, renew, rebind } = granted;
        // Where the server leaves the times to us, or says what cannot be: half and four fifths.
        let rebind = if rebind == 0 || rebind > valid { valid / 5 * 4 } else { rebind };
        let renew = if renew == 0 || renew > rebind { valid / 2 } else { renew };
        Self { address, expires: at(valid), renew: at(renew), rebind: at(rebind), server }
    }

    pub fn remaining(&self, now: Duration) -> Option<Duration> {
        self.expires.map(|expires| expires.saturating_sub(now))
    }
}

/// A question that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asking {
    transaction: u32,
    began: Duration,
    tries: u32,
    wait: Duration,
    again: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Soliciting(Asking),
    Requesting { asking: Asking, server: Vec<u8>, address: Ipv6Addr },
    Bound,
    Renewing(Asking),
    Rebinding(Asking),
    Asking(Asking),
    Informed { until: Duration },
}

#[derive(Debug)]
pub struct Client {
    identity: Identity,
    mode: Mode,
    carrier: bool,
    phase: Phase,
    lease: Option<Lease>,
    information: Information,
}

impl Client {
    pub fn new(identity: Identity) -> Self {
        let information = Information::default();
        Self { identity, mode: Mode::Nothing, carrier: false, phase: Phase::Idle, lease: None, information }
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub fn information(&self) -> &Information {
        &self.information
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// When a [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        let lease = self.lease.as_ref();
        let own = match &self.phase {
            Phase::Idle => None,
            Phase::Soliciting(asking)
            | Phase::Requesting { asking, .. }
            | Phase::Renewing(asking)
            | Phase::Rebinding(asking)
            | Phase::Asking(asking) => Some(asking.again),
            Phase::Bound => lease.and_then(|lease| lease.renew),
            Phase::Informed { until } => Some(*until),
        };
        // Renewing ends at T2, and everything with the lease.
        let rebind = lease.filter(|_| matches!(self.phase, Phase::Renewing(_))).and_then(|lease| lease.rebind);
        [own, rebind, lease.and_then(|lease| lease.expires)].into_iter().flatten().min()
    }

    pub fn handle(&mut self, now: Duration, random: &mut impl Random, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Mode(mode) if mode == self.mode => {}
            Event::Mode(mode) => {
                self.mode = mode;
                if mode != Mode::Addresses {
                    self.give_up(&mut commands);
                }
                if mode == Mode::Nothing {
                    self.information = Information::default();
                }
                self.begin(now, random, &mut commands);
            }
            Event::CarrierUp => {
                self.carrier = true;
                self.begin(now, random, &mut commands);
            }
            Event::CarrierDown => {
                self.carrier = false;
                self.phase = Phase::Idle;
            }
            Event::Received(message) => self.received(now, random, message, &mut commands),
            Event::Timer => self.timer(now, random, &mut commands),
        }
        commands
    }

    fn begin(&mut self, now: Duration, random: &mut impl Random, commands: &mut Vec<Command>) {
        let first = Asking::begin(now, random, RETRY_FIRST);
        self.phase = match (self.carrier, self.mode) {
            (false, _) | (_, Mode::Nothing) => Phase::Idle,
            (true, Mode::Information) => Phase::Asking(first),
            (true, Mode::Addresses) if self.lease.is_some() => Phase::Rebinding(first),
            (true, Mode::Addresses) => Phase::Soliciting(first),
        };
        self.ask(now, commands);
    }

    /// Sends the question of the present phase.
    fn ask(&self, now: Duration, commands: &mut Vec<Command>) {
        let held = self.lease.as_ref().map(|lease| lease.address);
        let nobody = Vec::new;
        let (kind, asking, server, address) = match &self.phase {
            Phase::Soliciting(asking) => (Kind::Solicit, asking, nobody(), None),
            Phase::Requesting { asking, server, address } => (Kind::Request, asking, server.clone(), Some(*address)),
            Phase::Renewing(asking) => {
                let server = self.lease.as_ref().map(|lease| lease.server.clone()).unwrap_or_default();
                (Kind::Renew, asking, server, held)
            }
            Phase::Rebinding(asking) => (Kind::Rebind, asking, nobody(), held),
            Phase::Asking(asking) => (Kind::InformationRequest, asking, nobody(), None),
            Phase::Idle | Phase::Bound | Phase::Informed { .. } => return,
        };
        let elapsed = now.saturating_sub(asking.began);
        let question = Question { kind, transaction: asking.transaction, elapsed, server, address };
        commands.push(Command::Send(encode(self.identity, &question)));
    }

    fn received(&mut self, now: Duration, random: &mut impl Random, message: Message, commands: &mut Vec<Command>) {
        let answers = |asking: &Asking| asking.transaction == message.transaction;
        match &self.phase {
            Phase::Soliciting(asking) if message.kind == Kind::Advertise && answers(asking) => {
                let Some(granted) = message.granted.filter(|_| !message.refused) else { return };
                let asking = Asking::begin(now, random, RETRY_FIRST);
                self.phase = Phase::Requesting { asking, server: message.server, address: granted.address };
                self.ask(now, commands);
            }
            Phase::Requesting { asking, .. } | Phase::Renewing(asking) | Phase::Rebinding(asking)
                if message.kind == Kind::Reply && answers(asking) =>
            {
                if let Some(granted) = message.granted.filter(|_| !message.refused) {
                    self.bind(Lease::new(granted, message.server, now), message.information, commands);
                } else {
                    self.give_up(commands);
                    self.phase = Phase::Soliciting(Asking::later(now, random, RETRY_FIRST));
                }
            }
            Phase::Asking(asking) if message.kind == Kind::Reply && answers(asking) => {
                let refresh = message.information.refresh.unwrap_or(REFRESH).max(REFRESH_MIN);
                self.information = message.information;
                self.phase = Phase::Informed { until: now + refresh };
            }
            _ => {}
        }
    }

    fn bind(&mut self, lease: Lease, information: Information, commands: &mut Vec<Command>) {
        if self.lease.as_ref().is_some_and(|held| held.address != lease.address) {
            self.give_up(commands);
        }
        self.information = information;
        self.lease = Some(lease.clone());
        self.phase = Phase::Bound;
        commands.push(Command::Apply(lease));
    }

    fn give_up(&mut self, commands: &mut Vec<Command>) {
        commands.extend(self.lease.take().map(Command::Withdraw));
    }

    fn timer(&mut self, now: Duration, random: &mut impl Random, commands: &mut Vec<Command>) {
        let due = |at: Option<Duration>| at.is_some_and(|at| now >= at);
        if self.lease.as_ref().is_some_and(|lease| due(lease.expires)) {
            self.give_up(commands);
            self.begin(now, random, commands);
            return;
        }
        let (renew, rebind) = self.lease.as_ref().map_or((None, None), |lease| (lease.renew, lease.rebind));
        match &mut self.phase {
            Phase::Bound if due(renew) => self.phase = Phase::Renewing(Asking::begin(now, random, RENEW_FIRST)),
            Phase::Renewing(_) if due(rebind) => self.phase = Phase::Rebinding(Asking::begin(now, random, RENEW_FIRST)),
            Phase::Informed { until } if now >= *until => {
                self.phase = Phase::Asking(Asking::begin(now, random, RETRY_FIRST));
            }
            Phase::Requesting { asking, .. } if now >= asking.again && asking.tries >= REQUEST_TRIES => {
                self.phase = Phase::Soliciting(Asking::begin(now, random, RETRY_FIRST));
            }
            Phase::Soliciting(asking)
            | Phase::Requesting { asking, .. }
            | Phase::Renewing(asking)
            | Phase::Rebinding(asking)
            | Phase::Asking(asking)
                if now >= asking.again =>
            {
                asking.repeat(now, random);
            }
            _ => return,
        }
        self.ask(now, commands);
    }
}

impl Asking {
    fn begin(now: Duration, random: &mut impl Random, wait: Duration) -> Self {
        let transaction = random.next() & 0x00ff_ffff;
        Self { transaction, began: now, tries: 1, wait, again: now + jittered(wait, random) }
    }

    /// One that is not sent at once: client and server must not quarrel at full speed.
    fn later(now: Duration, random: &mut impl Random, wait: Duration) -> Self {
        Self { tries: 0, ..Self::begin(now, random, wait) }
    }

    fn repeat(&mut self, now: Duration, random: &mut impl Random) {
        self.tries += 1;
        self.wait = (self.wait * 2).min(RETRY_MAX);
        self.again = now + jittered(self.wait, random);
    }
}

/// Off by up to a tenth, either way (RFC 8415, 15).
fn jittered(wait: Duration, random: &mut impl Random) -> Duration {
    let tenth = wait.as_millis() / 10;
    let off = u128::from(random.next()) % (2 * tenth + 1);
    Duration::from_millis(u64::try_from(wait.as_millis() + off - tenth).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
