//! Telling the supervisor that this process is ready: `sd_notify(3)`, without its library.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` to the socket that `NOTIFY_SOCKET` names; does nothing if none is named.
pub fn ready(socket: Option<&str>) -> io::Result<()> {
    send(socket, "READY=1")
}

/// Says that the process stops, so that a long last checkpoint is not taken for a hang.
pub fn stopping(socket: Option<&str>) -> io::Result<()> {
    send(socket, "STOPPING=1")
}

fn send(socket: Option<&str>, message: &str) -> io::Result<()> {
    let Some(name) = socket.filter(|name| !name.is_empty()) else { return Ok(()) };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_to_the_named_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        ready(path.to_str()).unwrap();
        let mut buffer = [0; 64];
        let len = supervisor.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1");
        ready(None).unwrap();
    }
}
