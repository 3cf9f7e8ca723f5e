//! Ports for the programs under test.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the kernel gives to outgoing connections (ip-sysctl, `ip_local_port_range`): a member that is started again finds its port
/// taken by nobody's connection.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;
/// So far apart begin processes with neighbouring ids.
const STRIDE: u32 = 97;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that was free a moment ago and is given out once.
pub(crate) fn free_port() -> u16 {
    loop {
        let offset = std::process::id().wrapping_mul(STRIDE).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + offset % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
