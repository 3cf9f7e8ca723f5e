//! Ports for the servers, as `init/crates/store/tests/support/ports.rs` gives them to tests.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the kernel gives to outgoing connections (ip-sysctl, `ip_local_port_range`): a server that is started again finds its port
/// taken by none of the load's own.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;
/// So far apart begin processes with neighbouring ids.
const STRIDE: u32 = 97;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that was free a moment ago and is given out once.
pub(crate) fn free_port() -> io::Result<u16> {
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..COUNT {
        let offset = std::process::id().wrapping_mul(STRIDE).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + offset % COUNT).map_err(io::Error::other)?;
        result = TcpListener::bind(("127.0.0.1", port)).map(|_| port);
        if result.is_ok() {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_out_once_and_no_outgoing_connection_has_them() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert!(ports.iter().all(|port| (10_000..30_000).contains(port)), "{ports:?}");
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        assert!(!ports.contains(&taken.local_addr().unwrap().port()));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
