//! The clock: an SNTP client (RFC 4330, RFC 5905 section 14) that never holds anything up.
//!
//! No server is built in. A node that is told none, by its configuration or by DHCP, keeps the clock it booted with:
//! a default on the internet would be a dependency nobody asked for, and one more thing to fail in a closed network.
//!
//! [`packet`] is the wire, [`discipline`] decides what an offset means for the clock; both are pure. This module asks,
//! and moves the [`Clock`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use keelson_config::network_state::TimeState;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::say::{failed, say};

pub mod clock;
pub mod discipline;
pub mod packet;

use clock::Clock;
use discipline::{Action, Discipline};
use packet::{Nanoseconds, Rejection, Sample};

const PORT: u16 = 123;
/// A server that has not answered by then is asked again later, and another one now.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Servers of a pool have many addresses; a few of each are enough to find one that answers.
const ADDRESSES_PER_SERVER: usize = 4;

/// What the daemon tells the client. A new value wakes it: another server may be in reach, or the clock may be far off
/// because the machine was stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    pub names: Vec<String>,
    /// Counts up whenever the network came back.
    pub generation: u64,
}

/// Runs until the daemon drops its end.
pub async fn run(
    mut servers: watch::Receiver<Servers>,
    state: watch::Sender<TimeState>,
    clock: impl Clock,
    floor: PathBuf,
    port: Option<u16>,
) {
    let mut client = Client { clock, floor, port: port.unwrap_or(PORT), discipline: Discipline::default(), first: 0 };
    loop {
        let known = servers.borrow_and_update().clone();
        let wait = if known.names.is_empty() { None } else { Some(client.poll(&known.names, &state).await) };
        let changed = match wait {
            Some(wait) => timeout(wait, servers.changed()).await.ok(),
            None => Some(servers.changed().await),
        };
        match changed {
            Some(Ok(())) => client.discipline.network_changed(),
            Some(Err(_)) => return,
            None => {}
        }
    }
}

struct Client<C> {
    clock: C,
    floor: PathBuf,
    port: u16,
    discipline: Discipline,
    /// The server that answered last is asked first.
    first: usize,
}

impl<C: Clock> Client<C> {
    /// Asks the servers in turn until one answers. Returns how long to wait before the next round.
    async fn poll(&mut self, servers: &[String], state: &watch::Sender<TimeState>) -> Duration {
        for step in 0..servers.len() {
            let index = (self.first + step) % servers.len();
            let Some(server) = servers.get(index) else { continue };
            if let Some((address, sample)) = self.ask_server(server).await {
                self.first = index;
                self.apply(server, address, sample, state);
                return self.discipline.next_poll();
            }
        }
        self.discipline.unanswered();
        self.discipline.next_poll()
    }

    async fn ask_server(&mut self, server: &str) -> Option<(IpAddr, Sample)> {
        let addresses: Vec<SocketAddr> =
            match timeout(ANSWER_TIMEOUT, tokio::net::lookup_host((server, self.port))).await {
                Ok(Ok(addresses)) => addresses.take(ADDRESSES_PER_SERVER).collect(),
                // A name that does not resolve now may later; the daemon's state tells that no server has answered.
                Ok(Err(_)) | Err(_) => return None,
            };
        for address in addresses {
            match self.ask(address).await {
                Ok(sample) => return Some((address.ip(), sample)),
                Err(AskError::Rejected(rejection @ Rejection::KissOfDeath(_))) => {
                    say(format_args!("time server {server} ({}): {rejection}", address.ip()));
                    self.discipline.asked_to_slow_down();
                }
                Err(_) => {}
            }
        }
        None
    }

    async fn ask(&self, server: SocketAddr) -> Result<Sample, AskError> {
        let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(local).await?;
        // Connected, so that only the server is heard.
        socket.connect(server).await?;
        let cookie = random_cookie()?;
        let sent_wall = self.clock.now();
        let sent = Instant::now();
        socket.send(&packet::request(cookie)).await?;
        let deadline = sent + ANSWER_TIMEOUT;
        let mut last = None;
        loop {
            let mut bytes = [0; packet::REPLY_MAX];
            let Ok(received) = tokio::time::timeout_at(deadline, socket.recv(&mut bytes)).await else {
                return Err(last.map_or(AskError::Silence, AskError::Rejected));
            };
            let length = received?;
            // Measured by the steady clock, for the wall clock may be set in between.
            let elapsed = Nanoseconds::try_from(sent.elapsed().as_nanos()).unwrap_or(Nanoseconds::MAX);
            match packet::reply(bytes.get(..length).unwrap_or_default(), cookie, sent_wall, elapsed) {
                Ok(sample) => return Ok(sample),
                // Not an answer to this question: the answer may still come.
                Err(Rejection::NotOurs) => last = Some(Rejection::NotOurs),
                Err(rejection) => return Err(AskError::Rejected(rejection)),
            }
        }
    }

    fn apply(&mut self, server: &str, address: IpAddr, sample: Sample, state: &watch::Sender<TimeState>) {
        let floor = clock::read_floor(&self.floor);
        let target = self.clock.now().saturating_add(sample.offset);
        if target < floor {
            say(format_args!("time server {server} ({address}) is before the clock floor; its time is not taken"));
            self.discipline.unanswered();
            return;
        }
        let action = self.discipline.judge(sample);
        let seconds = packet::seconds(sample.offset);
        let outcome = match action {
            Action::AskAgain => return,
            Action::Step => {
                say(format_args!("clock set by {seconds:+.3} s, from {server} ({address})"));
                self.clock.step(target)
            }
            Action::Slew => self.clock.slew(sample.offset, self.discipline.next_poll(), sample.delay),
        };
        if let Err(error) = outcome {
            failed(&error);
            self.discipline.unanswered();
            return;
        }
        if !state.borrow().synchronised && action == Action::Slew {
            say(format_args!("clock synchronised, off by {seconds:+.3} s, by {server} ({address})"));
        }
        state.send_replace(TimeState {
            synchronised: true,
            server: Some(server.to_owned()),
            offset_seconds: Some(seconds),
            last_answer: u64::try_from(self.clock.now() / packet::SECOND).ok(),
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no answer in time")]
    Silence,
    #[error("an answer that cannot be taken")]
    Rejected(#[source] Rejection),
    #[error("cannot ask")]
    Io(#[from] std::io::Error),
}

/// What the server has to send back (RFC 5905 calls it the origin timestamp). It is random, so that who cannot see the
/// question cannot answer it.
fn random_cookie() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_be_bytes(bytes) | 1)
}

#[cfg(test)]
mod tests;
