//! As much of logind as kubelet needs for a graceful node shutdown: `org.freedesktop.login1.Manager` on the system bus' socket.
//!
//! There is no bus behind the socket: a connection speaks to this process, which also answers the few calls that a bus would
//! (`Hello`, `AddMatch`). kubelet takes a delay lock with `Inhibit`, a descriptor whose closing is its release
//! (<https://systemd.io/INHIBITOR_LOCKS/>). When PID 1 announces a shutdown, `PrepareForShutdown(true)` goes to all connections, and
//! PID 1 is held back until every lock is released or its deadline has passed.
//!
//! It stands outside PID 1 because it parses what others write. Descriptors travel by `SCM_RIGHTS`, which the runtime's sockets
//! cannot do, so each connection has a thread; kubelet is the one client, and few connections are admitted.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keelson_control::{Client, ClientError, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kubernetes::SHUTDOWN_GRACE;
use crate::node::Node;
use crate::report;
use crate::unix_socket::Admitted;

mod connection;
mod message;

/// kubelet's own time and a little for what follows it.
pub const DELAY_MAX: Duration = SHUTDOWN_GRACE.saturating_add(Duration::from_secs(5));
/// kubelet has one; a restarted one may overlap with its predecessor.
const CONNECTIONS_MAX: usize = 8;
const INHIBITORS_MAX: usize = 16;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const EVENT_WAIT: Duration = Duration::from_mins(1);

/// Locks and connections, shared by all threads.
#[derive(Debug, Default)]
struct Seat {
    /// Our ends of the pipes whose other ends are the locks.
    inhibitors: Mutex<Vec<OwnedFd>>,
    connections: Mutex<Vec<Arc<connection::Writer>>>,
}

impl Seat {
    fn add_inhibitor(&self, end: OwnedFd) -> bool {
        let mut inhibitors = self.inhibitors.lock().unwrap_or_else(PoisonError::into_inner);
        inhibitors.retain(|end| !is_released(end));
        let admitted = inhibitors.len() < INHIBITORS_MAX;
        if admitted {
            inhibitors.push(end);
        }
        admitted
    }

    fn add_connection(&self, writer: Arc<connection::Writer>) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = connections.len() < CONNECTIONS_MAX;
        if admitted {
            connections.push(writer);
        }
        admitted
    }

    fn remove_connection(&self, writer: &Arc<connection::Writer>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, writer));
    }

    /// Announces the shutdown and waits for the locks, no longer than `deadline`.
    fn shut_down(&self, deadline: Instant) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for writer in connections {
            if let Err(error) = writer.prepare_for_shutdown() {
                report::error(&error);
            }
        }
        loop {
            let mut inhibitors = self.inhibitors.lock().unwrap_or_else(PoisonError::into_inner);
            inhibitors.retain(|end| !is_released(end));
            let remaining = deadline.saturating_duration_since(Instant::now());
            if inhibitors.is_empty() || remaining.is_zero() {
                return;
            }
            wait_for_release(&inhibitors, remaining);
        }
    }
}

/// The other end is closed everywhere.
fn is_released(end: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(end, PollFlags::IN)];
    poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

fn wait_for_release(inhibitors: &[OwnedFd], at_most: Duration) {
    let mut descriptors: Vec<_> = inhibitors.iter().map(|end| PollFd::new(end, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: i64::from(at_most.subsec_nanos()) };
    // Interrupted or timed out: the caller looks again.
    let _ = poll(&mut descriptors, Some(&timeout));
}

/// Serves as long as the process runs.
pub async fn serve(node: Arc<Node>) {
    let seat = Arc::new(Seat::default());
    let (listening, watching) = (Arc::clone(&seat), Arc::clone(&node));
    let path = node.paths.system_bus();
    let listener = loop {
        match listen(&path) {
            Ok(listener) => break listener,
            Err(error) => report::info(format!("error: listening on {}: {error}", path.display())),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    let threads = [
        spawn("login-accept", move || accept(&listener, &listening)),
        spawn("login-shutdown", move || watch_for_shutdown(&watching, &seat)),
    ];
    if let Some(error) = threads.into_iter().find_map(Result::err) {
        report::error(&error);
    }
}

fn listen(path: &std::path::Path) -> std::io::Result<UnixListener> {
    let listener = crate::unix_socket::listen(path, Admitted::ROOT)?.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

fn spawn<F: FnOnce() + Send + 'static>(name: &str, work: F) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

fn accept(listener: &UnixListener, seat: &Arc<Seat>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => admit(stream, Arc::clone(seat)),
            Err(error) => {
                report::error(&error);
                std::thread::park_timeout(RETRY_PAUSE);
            }
        }
    }
}

fn admit(stream: UnixStream, seat: Arc<Seat>) {
    let serve = move || {
        if let Err(error) = connection::serve(stream, &seat) {
            report::error(&error);
        }
    };
    if let Err(error) = spawn("login-connection", serve) {
        report::error(&error);
    }
}

/// Holds PID 1 back at the shutdown until the locks are released. A shutdown is never taken back, so there is one.
fn watch_for_shutdown(node: &Arc<Node>, seat: &Seat) {
    while let Err(error) = follow_init(node, seat) {
        report::error(&error);
        std::thread::park_timeout(RETRY_PAUSE);
    }
}

fn follow_init(node: &Arc<Node>, seat: &Seat) -> Result<(), ClientError> {
    let connect = || Client::connect(node.paths.control_socket(), "keelson-cluster login1");
    let mut events = connect()?.subscribe()?;
    let inhibitor = connect()?.inhibit("login1", "kubelet ends the node's pods", DELAY_MAX)?;
    loop {
        if let Some(Event::ShuttingDown { kind, reason, inhibitors_deadline_milliseconds }) = events.next(EVENT_WAIT)? {
            report::info(format!("{kind} ({reason}): kubelet is told to end the node's pods"));
            node.status.shutting_down();
            seat.shut_down(Instant::now() + Duration::from_millis(inhibitors_deadline_milliseconds).min(DELAY_MAX));
            drop(inhibitor);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
