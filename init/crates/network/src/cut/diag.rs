//! `sock_diag(7)`, as far as it is about TCP connections: a dump of a family's sockets, and the end of one. The forms are those of
//! `linux/inet_diag.h`; numbers are the machine's own but for ports and addresses.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// Message types.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

/// Flags of a request: it is one; it wants a list (`NLM_F_ROOT | NLM_F_MATCH`); it wants to know how it went.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ACKNOWLEDGE: u16 = 4;

/// `tcp_states.h`: all but `TCP_TIME_WAIT` (6), `TCP_LISTEN` (10) and `TCP_NEW_SYN_RECV` (12), each a bit.
const CONNECTIONS: u32 = 0xfff & !(1 << 6 | 1 << 10);

/// nlmsghdr; the family, state, timer and retransmits that an `inet_diag_msg` begins with; an `inet_diag_sockid`.
const HEADER_BYTES: usize = 16;
const BEFORE_ID_BYTES: usize = 4;
const ID_BYTES: usize = 48;
/// The kernel fills 32 KiB at most for one read of a dump.
const READ_BYTES: usize = 64 * 1024;
/// The kernel answers while it is asked; this is for a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(1);
const ENOENT: i32 = 2;

/// A TCP connection of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tcp {
    family: u8,
    pub(super) local_port: u16,
    /// An IPv4 address although the socket may be of IPv6.
    pub(super) remote: IpAddr,
    /// The kernel's name of the socket.
    id: [u8; ID_BYTES],
}

/// Ends the connections that are `wanted`, and says whose each was.
pub(super) fn destroy(wanted: impl Fn(&Tcp) -> bool) -> io::Result<Vec<IpAddr>> {
    let mut socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut ended = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for connection in list(&mut socket, family)?.into_iter().filter(&wanted) {
            if end(&mut socket, &connection)? {
                ended.push(connection.remote);
            }
        }
    }
    Ok(ended)
}

fn list(socket: &mut Socket, family: u8) -> io::Result<Vec<Tcp>> {
    socket.write_all(&request(BY_FAMILY, DUMP, family, CONNECTIONS, &[0; ID_BYTES]))?;
    let mut connections = Vec::new();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let length = socket.read(&mut bytes)?;
        for message in messages(bytes.get(..length).unwrap_or_default()) {
            match message {
                (DONE, _) => return Ok(connections),
                (ERROR, body) => return failure(body).map_or(Ok(connections), Err),
                (BY_FAMILY, body) => connections.extend(connection(body)),
                _ => {}
            }
        }
    }
}

/// False if it has ended by itself meanwhile.
fn end(socket: &mut Socket, connection: &Tcp) -> io::Result<bool> {
    socket.write_all(&request(DESTROY, ACKNOWLEDGE, connection.family, CONNECTIONS, &connection.id))?;
    let mut bytes = vec![0; READ_BYTES];
    let length = socket.read(&mut bytes)?;
    let answer = messages(bytes.get(..length).unwrap_or_default()).next();
    match answer.and_then(|(kind, body)| if kind == ERROR { failure(body) } else { None }) {
        None => Ok(true),
        Some(error) if error.raw_os_error() == Some(ENOENT) => Ok(false),
        Some(error) => Err(error),
    }
}

/// An `nlmsghdr` with an `inet_diag_req_v2` behind it.
fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    // Sequence and sender: one question at a time, from a socket of its own.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The messages of one read: each with its type and what is behind its header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER_BYTES..length)?;
        // Each begins at a multiple of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// What an `nlmsgerr` says; none if it says that all went well.
fn failure(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
}

/// An `inet_diag_msg`.
fn connection(body: &[u8]) -> Option<Tcp> {
    let family = *body.first()?;
    let id: [u8; ID_BYTES] = *body.get(BEFORE_ID_BYTES..)?.first_chunk()?;
    // Source port, destination port, source address, destination address, link, cookie.
    let [high, low, ..] = id;
    let remote = id.get(20..)?;
    let remote = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from(*remote.first_chunk::<4>()?)),
        AF_INET6 => Ipv6Addr::from(*remote.first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    Some(Tcp { family, local_port: u16::from_be_bytes([high, low]), remote, id })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lists_connections_of_both_families_with_their_plain_addresses() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _clients = ["127.0.0.1", "::1"].map(|address| TcpStream::connect((address, port)).unwrap());
        let mut socket =
            Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_SOCK_DIAG))).unwrap();
        let mut found: Vec<IpAddr> = list(&mut socket, AF_INET6)
            .unwrap()
            .iter()
            .filter(|it| it.local_port == port)
            .map(|it| it.remote)
            .collect();
        found.sort();
        assert_eq!(found, ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }

    #[test]
    fn messages_that_are_cut_short_end_the_list() {
        let whole = request(BY_FAMILY, DUMP, AF_INET, CONNECTIONS, &[7; ID_BYTES]);
        assert_eq!(messages(&whole).count(), 1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
        assert!(connection(&[AF_INET, 1, 0, 0, 1]).is_none());
        assert_eq!(messages(&[0; 64]).count(), 0, "a length of nothing");
    }
}
