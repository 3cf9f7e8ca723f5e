//! The node's way to the Kubernetes API: a balancer on the loopback in front of all API servers.
//!
//! kubelet, kube-proxy, the controller manager and the scheduler speak to `https://127.0.0.1:6444` on every node, control
//! planes included, so that no node depends on one API server. TLS passes through: the proxy holds no key and reads
//! nothing, and whoever connects verifies the API server itself.
//!
//! Which servers there are is told by keelson-cluster over a unix socket ([`feed`]); the last set is kept on DATA, so
//! that a node that starts while nobody can be asked knows where to try. Which of them are well is found out here
//! ([`probe`]): a connection to each is kept open and `/readyz` asked twice a second, because a server that accepts
//! connections and answers nothing, or is not ready, looks well to TCP.
//!
//! What it promises, each with a test in tests/proxy.rs:
//! - new connections go to a server that is ready, the node's own first; a failed try costs a quarter of a second
//! - connections to a server that is dead are reset within two seconds, so that clients find another
//! - while no server is well, all are tried, and a client waits a while instead of being turned away
//! - a change of the set neither closes the listener nor touches connections to servers that stay
//! - connections, buffers and waits are bounded
//!
//! A restart of this process cuts its connections; clients make them again.
#![forbid(unsafe_code)]

pub mod balance;
pub mod dial;
pub mod feed;
pub mod health;
pub mod kept;
pub mod pool;
pub mod probe;
pub mod relay;
pub mod server;
pub mod sockets;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the node's components find it.
pub const PORT: u16 = 6444;

/// Where it listens, what it remembers, and how patient it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first has to work; the others may be missing from the kernel (IPv6).
    pub listen: Vec<SocketAddr>,
    pub feed: PathBuf,
    pub kept: PathBuf,
    /// How long connections to a server that left the set may go on.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()],
            feed: PathBuf::from("/run/keelson/proxy/feed.sock"),
            kept: PathBuf::from("/var/lib/keelson-proxy/endpoints.json"),
            drain: Duration::from_secs(30),
        }
    }
}
