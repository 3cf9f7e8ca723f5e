//! What a service says of itself, by the protocol of `sd_notify(3)`: a datagram to the socket that PID 1 names in the
//! environment. Without `NOTIFY_SOCKET` nobody wants to know, and that is no failure.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, SocketAddrUnix};

/// So many times within PID 1's patience: three of them may be late.
const BEATS: u32 = 4;

/// Says that the service is ready.
pub fn ready() -> io::Result<()> {
    notify("READY=1")
}

/// Says that the service is ready, and a line for the console.
pub fn ready_with_status(status: &str) -> io::Result<()> {
    notify(&format!("READY=1\nSTATUS={status}"))
}

/// Says that the process stops, so that a long end is not taken for a hang.
pub fn stopping() -> io::Result<()> {
    notify("STOPPING=1")
}

/// Has PID 1 show a line on the console.
pub fn status(status: &str) -> io::Result<()> {
    notify(&format!("STATUS={status}"))
}

/// When a service is to say that it lives. What owns it has to be what does the work, so that it falls silent with it.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    due: Instant,
}

impl Heartbeat {
    /// As `WATCHDOG_USEC` asks for it (microseconds, `sd_watchdog_enabled(3)`); `None` if PID 1 does not want to know.
    pub fn from_environment() -> Option<Self> {
        std::env::var("WATCHDOG_USEC").ok().and_then(|patience| Self::within(&patience))
    }

    fn within(patience: &str) -> Option<Self> {
        let patience = patience.parse().ok().filter(|patience| *patience > 0).map(Duration::from_micros)?;
        Some(Self::every(patience / BEATS))
    }

    pub fn every(interval: Duration) -> Self {
        Self { interval, due: Instant::now() }
    }

    /// How long until the next word is due.
    pub fn rest(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// Says it, if it is due; waits for nothing, though PID 1 may be behind.
    pub fn beat(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.due {
            return Ok(());
        }
        self.due = now + self.interval;
        notify_with("WATCHDOG=1", SendFlags::DONTWAIT)
    }
}

/// Says for ever that the service lives, as often as PID 1 wants to hear it. `sleep` is the runtime's own: one that is stuck says nothing.
///
/// A word that cannot be sent is no matter of its own: PID 1, which misses it, says so.
pub async fn keep_alive<F: Future<Output = ()>>(sleep: impl Fn(Duration) -> F) {
    let Some(mut heartbeat) = Heartbeat::from_environment() else { return };
    loop {
        let _ = heartbeat.beat();
        sleep(heartbeat.rest()).await;
    }
}

fn notify(message: &str) -> io::Result<()> {
    notify_with(message, SendFlags::empty())
}

fn notify_with(message: &str, flags: SendFlags) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) {
        Some(socket) => send(&socket, message.as_bytes(), flags),
        None => Ok(()),
    }
}

fn send(socket: &OsStr, message: &[u8], flags: SendFlags) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(socket)?,
    };
    rustix::net::sendto(&UnixDatagram::unbound()?, message, flags, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use super::*;

    #[test]
    fn it_says_that_it_lives_several_times_within_the_patience() {
        let mut heartbeat = Heartbeat::within("60000000").unwrap();
        assert_eq!(heartbeat.rest(), Duration::ZERO, "the first is due at once");
        heartbeat.beat().unwrap();
        assert!(heartbeat.rest() > Duration::from_secs(10) && heartbeat.rest() <= Duration::from_secs(15));
        for nobody_wants_to_know in ["", "0", "-1", "a minute"] {
            assert!(Heartbeat::within(nobody_wants_to_know).is_none(), "{nobody_wants_to_know}");
        }
    }

    #[test]
    fn the_word_arrives_at_a_socket_of_either_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("keelson-control-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let send = |socket: &OsStr| send(socket, b"READY=1", SendFlags::empty());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{abstract_name}")),
        ];
        for (supervisor, name) in sockets {
            send(OsStr::new(&name)).unwrap();
            let mut buffer = [0; 64];
            let length = supervisor.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(send(directory.path().join("absent").as_os_str()).is_err());
    }
}
