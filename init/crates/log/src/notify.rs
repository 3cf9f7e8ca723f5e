//! Readiness, by the protocol of `sd_notify(3)`: a datagram to the socket that the environment names.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Says that the service is ready. Without `NOTIFY_SOCKET` nobody wants to know.
pub fn ready() -> io::Result<()> {
    match std::env::var("NOTIFY_SOCKET") {
        Ok(socket) => send(&socket, b"READY=1"),
        Err(_) => Ok(()),
    }
}

fn send(socket: &str, state: &[u8]) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_socket_of_either_kind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let abstract_name = format!("keelson-log-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("an address");
        let sockets = [
            (UnixDatagram::bind(&path).expect("a socket"), path.to_str().expect("a path").to_owned()),
            (UnixDatagram::bind_addr(&address).expect("a socket"), format!("@{abstract_name}")),
        ];
        for (socket, name) in sockets {
            send(&name, b"READY=1").expect("the datagram is sent");
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).expect("the datagram comes");
            assert_eq!(&buffer[..length], b"READY=1");
        }
    }
}
