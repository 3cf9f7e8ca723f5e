//! A DHCP server for one link of a namespace, which does what the test says and remembers what it was asked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable as _, Encodable as _};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    pub(crate) silent: bool,
    /// Refuse every request that is not for `address`.
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: Ipv4Addr,
    pub(crate) lease_seconds: u32,
    pub(crate) options: Vec<DhcpOption>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            silent: false,
            address: Ipv4Addr::new(10, 99, 0, 50),
            mask: Ipv4Addr::new(255, 255, 255, 0),
            lease_seconds: 3600,
            options: vec![
                DhcpOption::Router(vec![SERVER]),
                DhcpOption::DomainNameServer(vec![SERVER, Ipv4Addr::new(10, 99, 0, 2)]),
                DhcpOption::DomainName("test.example".to_owned()),
            ],
        }
    }
}

/// One message of the client.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) kind: MessageType,
    pub(crate) from: Ipv4Addr,
    pub(crate) message: Message,
}

impl Asked {
    pub(crate) fn requested(&self) -> Option<Ipv4Addr> {
        match self.message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        }
    }

    /// INIT-REBOOT: an address but no server (RFC 2131, table 4).
    pub(crate) fn is_reboot(&self) -> bool {
        self.kind == MessageType::Request
            && self.requested().is_some()
            && self.message.opts().get(OptionCode::ServerIdentifier).is_none()
    }

    /// RENEWING: from the address itself, to the server itself.
    pub(crate) fn is_renewal(&self) -> bool {
        self.kind == MessageType::Request && !self.message.ciaddr().is_unspecified()
    }
}

pub(crate) struct Server {
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on `link` of `namespace` until dropped.
    pub(crate) fn start(namespace: &str, link: &str, behaviour: Behaviour) -> Self {
        let behaviour = Arc::new(Mutex::new(behaviour));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let socket = open(namespace, link).expect("the server's socket");
        let thread = {
            let (behaviour, asked, stop) = (Arc::clone(&behaviour), Arc::clone(&asked), Arc::clone(&stop));
            std::thread::spawn(move || serve(&socket, &behaviour, &asked, &stop))
        };
        Self { behaviour, asked, stop, thread: Some(thread) }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket belongs to the namespace in which it was made, so only its making has to happen there.
fn open(namespace: &str, link: &str) -> io::Result<UdpSocket> {
    let (namespace, link) = (namespace.to_owned(), link.to_owned());
    let in_namespace = move || -> io::Result<UdpSocket> {
        let file = std::fs::File::open(format!("/run/netns/{namespace}"))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(link.as_bytes()))?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67)))?;
        Ok(socket.into())
    };
    std::thread::spawn(in_namespace).join().expect("the thread in the namespace")
}

fn serve(socket: &UdpSocket, behaviour: &Mutex<Behaviour>, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool) {
    let mut bytes = [0; 1500];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut bytes) else { continue };
        let Ok(message) = Message::from_bytes(&bytes[..length]) else { continue };
        let Some(kind) = message.opts().msg_type() else { continue };
        asked.lock().unwrap().push(Asked { kind, from: *from.ip(), message: message.clone() });
        let behaviour = behaviour.lock().unwrap().clone();
        if behaviour.silent {
            continue;
        }
        if let Some(answer) = answer(&message, kind, &behaviour) {
            let to = if message.ciaddr().is_unspecified() { Ipv4Addr::BROADCAST } else { message.ciaddr() };
            // The link may be down just now, which is part of some tests.
            let _ = socket.send_to(&answer.to_vec().unwrap(), (to, 68));
        }
    }
}

fn answer(question: &Message, kind: MessageType, behaviour: &Behaviour) -> Option<Message> {
    let mut answer = Message::default();
    answer.set_opcode(Opcode::BootReply).set_xid(question.xid()).set_chaddr(question.chaddr());
    let requested = match question.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => *address,
        _ => question.ciaddr(),
    };
    let kind = match kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request if requested == behaviour.address => MessageType::Ack,
        MessageType::Request => MessageType::Nak,
        _ => return None,
    };
    let options = answer.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(SERVER));
    if kind != MessageType::Nak {
        options.insert(DhcpOption::SubnetMask(behaviour.mask));
        options.insert(DhcpOption::AddressLeaseTime(behaviour.lease_seconds));
        for option in &behaviour.options {
            options.insert(option.clone());
        }
        answer.set_yiaddr(behaviour.address);
    }
    Some(answer)
}
