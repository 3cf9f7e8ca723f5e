//! The socket of one link: UDP 546, to all servers and relays of the link.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

use super::message::{self, BYTES_MAX, Identity, Message};

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

#[derive(Debug)]
pub struct LinkSocket {
    socket: UdpSocket,
    index: u32,
}

impl LinkSocket {
    pub fn open(link: &str, index: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(link.as_bytes()))?;
        socket.set_multicast_if_v6(index)?;
        socket.bind(&SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, 0)))?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, index })
    }

    /// Refused as long as the link's own address is being checked; the client asks again in any case.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.index);
        self.socket.try_send_to(bytes, to.into()).map(drop)
    }

    /// The next message of a server to this link.
    pub async fn receive(&self, identity: Identity) -> io::Result<Message> {
        loop {
            let mut bytes = [0; BYTES_MAX];
            let (length, _) = self.socket.recv_from(&mut bytes).await?;
            if let Some(message) = bytes.get(..length).and_then(|bytes| message::parse(bytes, identity)) {
                return Ok(message);
            }
        }
    }
}
