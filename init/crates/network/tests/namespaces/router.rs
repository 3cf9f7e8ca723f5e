//! An IPv6 router for one link of a namespace: it advertises a prefix and itself, again and again (RFC 4861, 6.2).

use std::io::{self, Read as _};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A prefix for documentation (RFC 3849).
pub(crate) const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0);
const INTERVAL: Duration = Duration::from_millis(200);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

pub(crate) struct Router {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Advertises on the link with this number in `namespace` until dropped. `flags` are the message's, `options` go behind the
    /// prefix.
    pub(crate) fn start(namespace: &str, link: u32, flags: u8, options: &[u8]) -> Self {
        Self::speaking(namespace, link, flags, options, |_| true)
    }

    /// The same, but only to those who ask (RFC 4861, 6.2.6), as a router does whose next turn is far off.
    pub(crate) fn start_reticent(namespace: &str, link: u32, flags: u8, options: &[u8]) -> Self {
        Self::speaking(namespace, link, flags, options, |mut socket| {
            let mut message = [0; 256];
            // The socket hears all of ICMPv6, of which type 133 is a solicitation, and waits for it.
            socket.read(&mut message).is_ok_and(|_| message[0] == 133)
        })
    }

    fn speaking(
        namespace: &str,
        link: u32,
        flags: u8,
        options: &[u8],
        speaks_now: impl Fn(&Socket) -> bool + Send + 'static,
    ) -> Self {
        let message = advertisement(flags, options);
        let socket = open(namespace, link).expect("the router's socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let to = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, link));
            while !stopped.load(Ordering::Relaxed) {
                if speaks_now(&socket) {
                    // Refused as long as the router's own address is being checked.
                    let _ = socket.send_to(&message, &to);
                }
                std::thread::park_timeout(INTERVAL);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The kernel adds the checksum.
fn advertisement(flags: u8, options: &[u8]) -> Vec<u8> {
    // Type 134; hop limit 64; flags; a default router for 1800 s; the two timers are left to the host.
    let mut message = vec![134, 0, 0, 0, 64, flags, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // A prefix of 64 bits, on the link and for addresses, valid for 3600 s and preferred for 1800 s.
    message.extend([3, 4, 64, 0xc0]);
    message.extend(3600_u32.to_be_bytes());
    message.extend(1800_u32.to_be_bytes());
    message.extend([0; 4]);
    message.extend(PREFIX.octets());
    message.extend(options);
    message
}

/// A resolver and a search domain for so many seconds (RFC 8106).
pub(crate) fn resolver(server: &str, domain: &[u8], lifetime: u32) -> Vec<u8> {
    let server: Ipv6Addr = server.parse().unwrap();
    let mut options = vec![25, 3, 0, 0];
    options.extend(lifetime.to_be_bytes());
    options.extend(server.octets());
    let mut names = [31, 0, 0, 0].to_vec();
    names.extend(lifetime.to_be_bytes());
    names.extend(domain);
    names.resize(names.len().next_multiple_of(8), 0);
    names[1] = u8::try_from(names.len() / 8).unwrap();
    options.extend(names);
    options
}

fn open(namespace: &str, link: u32) -> io::Result<Socket> {
    let namespace = namespace.to_owned();
    let in_namespace = move || -> io::Result<Socket> {
        let file = std::fs::File::open(format!("/run/netns/{namespace}"))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        // Hosts ignore what may have come through another router.
        socket.set_multicast_hops_v6(255)?;
        socket.set_multicast_if_v6(link)?;
        socket.join_multicast_v6(&ALL_ROUTERS, link)?;
        socket.set_read_timeout(Some(INTERVAL))?;
        Ok(socket)
    };
    std::thread::spawn(in_namespace).join().expect("the thread in the namespace")
}
