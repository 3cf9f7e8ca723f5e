//! A netlink socket that hears what the kernel takes from router advertisements (rtnetlink(7)): its groups for the options that it
//! leaves to others, and for the IPv6 side of links.

use std::io::{self, Read as _};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::heard::{self, Heard};

/// `RTNLGRP_ND_USEROPT` is group 20, `RTNLGRP_IPV6_IFINFO` group 12; the mask counts from bit 0.
const GROUPS: u32 = 1 << 19 | 1 << 11;
/// Some messages at once.
const READ_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub struct Ears(AsyncFd<Socket>);

impl Ears {
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may lie about their descriptor; this one owns it"
        )]
        let socket = AsyncFd::with_interest(Socket::from(socket), Interest::READABLE)?;
        Ok(Self(socket))
    }

    /// What was heard last. A message that was lost is repeated by the router in time.
    pub async fn next(&self) -> io::Result<Vec<Heard>> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match self.0.async_io(Interest::READABLE, |mut socket| socket.read(&mut bytes)).await {
                Ok(length) => return Ok(heard::parse(bytes.get(..length).unwrap_or_default())),
                // More came than the socket holds (ENOBUFS); it goes on with the next.
                Err(error) if error.raw_os_error() == Some(105) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
