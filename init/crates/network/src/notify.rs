//! `sd_notify(3)`: tells the supervisor that the network is up, and the console what keeps it from that.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the network is up, and `status` on the console. Without a supervisor nobody waits, and that is no failure.
pub fn ready(status: &str) -> io::Result<()> {
    notify(&format!("READY=1\nSTATUS={status}"))
}

/// Has the supervisor show a line on the console.
pub fn status(status: &str) -> io::Result<()> {
    notify(&format!("STATUS={status}"))
}

fn notify(message: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => send(&socket, message.as_bytes()),
        None => Ok(()),
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_a_socket_by_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), b"READY=1").unwrap();
        let mut bytes = [0; 16];
        let length = supervisor.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }
}
