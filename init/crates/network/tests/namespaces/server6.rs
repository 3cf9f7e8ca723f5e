//! A DHCPv6 server for one link of a namespace (RFC 8415): it grants one address, tells of one resolver, and remembers which
//! kinds of messages it got.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0x50);
const RESOLVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0x53);

pub(crate) struct Server6 {
    stop: Arc<AtomicBool>,
    lifetime: Arc<AtomicU32>,
    asked: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server6 {
    /// Serves on the link with this number in `namespace`; leases are for so many seconds.
    pub(crate) fn start(namespace: &str, link: u32, lifetime: u32) -> Self {
        let socket = open(namespace, link).expect("the server's socket");
        let mut server = Self {
            stop: Arc::default(),
            lifetime: Arc::new(AtomicU32::new(lifetime)),
            asked: Arc::default(),
            thread: None,
        };
        let (stop, lifetime, asked) =
            (Arc::clone(&server.stop), Arc::clone(&server.lifetime), Arc::clone(&server.asked));
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                asked.lock().unwrap().push(bytes[0]);
                let lifetime = lifetime.load(Ordering::Relaxed);
                if lifetime > 0 {
                    let _ = socket.send_to(&answer(&bytes[..length], lifetime), from);
                }
            }
        });
        server.thread = Some(thread);
        server
    }

    /// The kinds of the messages that came in.
    pub(crate) fn asked(&self) -> Vec<u8> {
        self.asked.lock().unwrap().clone()
    }

    /// From now on it hears and answers nothing.
    pub(crate) fn fall_silent(&self) {
        self.lifetime.store(0, Ordering::Relaxed);
    }
}

impl Drop for Server6 {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An advertisement to a SOLICIT, a reply to all else, with what the client said of itself.
fn answer(asked: &[u8], lifetime: u32) -> Vec<u8> {
    let option = |wanted: u16| {
        let mut rest = &asked[4..];
        while rest.len() >= 4 {
            let (code, length) =
                (u16::from_be_bytes([rest[0], rest[1]]), usize::from(u16::from_be_bytes([rest[2], rest[3]])));
            if code == wanted {
                return Some(rest[4..4 + length].to_vec());
            }
            rest = &rest[4 + length..];
        }
        None
    };
    let field = |code: u16, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap();
        [&code.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
    };
    let mut message = vec![if asked[0] == 1 { 2 } else { 7 }, asked[1], asked[2], asked[3]];
    message.extend(field(1, &option(1).expect("the client's identity")));
    message.extend(field(2, b"the server of this test"));
    if let Some(association) = option(3) {
        let lease = [&ADDRESS.octets()[..], &lifetime.to_be_bytes(), &lifetime.to_be_bytes()].concat();
        let times = [lifetime / 2, lifetime / 5 * 4].map(u32::to_be_bytes).concat();
        message.extend(field(3, &[&association[..4], &times, &field(5, &lease)].concat()));
    }
    message.extend(field(23, &RESOLVER.octets()));
    message
}

fn open(namespace: &str, link: u32) -> io::Result<UdpSocket> {
    let namespace = namespace.to_owned();
    let in_namespace = move || -> io::Result<UdpSocket> {
        let file = std::fs::File::open(format!("/run/netns/{namespace}"))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&SockAddr::from(SocketAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 547, 0, 0))))?;
        socket.join_multicast_v6(&SERVERS, link)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(socket.into())
    };
    std::thread::spawn(in_namespace).join().expect("the thread in the namespace")
}
