//! The two ways out and the one way in. Frames go out and come in through a packet socket of the link, which works
//! before there is an address and sees the answers to unicast as well; renewals go out through a UDP socket of the
//! leased address, so that the kernel resolves the server and routes to it.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use dhcproto::v4::Message;
use keelson_config::MacAddress;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dhcp::{frame, message};

/// No DHCP message fits more into a frame of an ordinary link; longer ones are cut, and then fail to parse.
const FRAME_MAX: usize = 2048;

/// The sockets of one link.
#[derive(Debug)]
pub struct LinkSocket {
    packets: AsyncFd<Socket>,
    /// Stays open after use: without it the kernel would answer the server's answer with "port unreachable".
    unicast: Mutex<Option<(Ipv4Addr, Socket)>>,
    link: String,
    mac: MacAddress,
}

impl LinkSocket {
    pub fn open(link: &str, index: u32, mac: MacAddress) -> io::Result<Self> {
        let socket = Socket::from(keelson_sys::packet::open(index)?);
        socket.attach_filter(&frame::filter())?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may lie about their descriptor; this one owns it"
        )]
        let packets = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Self { packets, unicast: Mutex::new(None), link: link.to_owned(), mac })
    }

    /// Sends to everyone on the link, from no address.
    pub fn broadcast(&self, message: &Message) -> io::Result<()> {
        // The socket remembers that its link was down, and would tell it now instead of sending.
        let _ = self.packets.get_ref().take_error();
        self.packets.get_ref().send(&frame::broadcast(self.mac, &message::encode(message))).map(drop)
    }

    /// Sends to the server from the leased address. The answer comes in through [`Self::receive`].
    pub fn send_to_server(&self, address: Ipv4Addr, server: Ipv4Addr, message: &Message) -> io::Result<()> {
        let mut unicast = self.unicast.lock().unwrap_or_else(PoisonError::into_inner);
        if unicast.as_ref().is_none_or(|(bound, _)| *bound != address) {
            *unicast = Some((address, self.open_unicast(address)?));
        }
        let Some((_, socket)) = unicast.as_ref() else { return Ok(()) };
        let to = SockAddr::from(SocketAddrV4::new(server, frame::SERVER_PORT));
        socket.send_to(&message::encode(message), &to).map(drop)
    }

    fn open_unicast(&self, address: Ipv4Addr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(self.link.as_bytes()))?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(address, frame::CLIENT_PORT)))?;
        // Nobody reads it, so it need not keep more than one answer.
        socket.set_recv_buffer_size(0)?;
        Ok(socket)
    }

    /// The next message from a server to this link. An error means that the socket is of no more use.
    pub async fn receive(&self) -> io::Result<Message> {
        loop {
            let mut bytes = [0; FRAME_MAX];
            match self.packets.async_io(Interest::READABLE, |mut socket| socket.read(&mut bytes)).await {
                Ok(length) => {
                    let datagram = bytes.get(..length).and_then(frame::payload);
                    if let Some(message) = datagram.and_then(|(_, payload)| message::parse(payload, self.mac)) {
                        return Ok(message);
                    }
                }
                // A link that goes down says so once here, and the socket works again when the link is up.
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
        }
    }
}
