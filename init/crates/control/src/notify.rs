//! Readiness, by the protocol of `sd_notify(3)`: a datagram to the socket that PID 1 names in the environment.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

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
    fn the_word_arrives_at_the_named_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap(), b"READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = supervisor.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(send(directory.path().join("absent").to_str().unwrap(), b"READY=1").is_err());
    }
}
