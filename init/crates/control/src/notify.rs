//! What a service says of itself, by the protocol of `sd_notify(3)`: a datagram to the socket that PID 1 names in the
//! environment. Without `NOTIFY_SOCKET` nobody wants to know, and that is no failure.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the service is ready.
pub fn ready() -> io::Result<()> {
    notify("READY=1")
}

/// Says that the service is ready, and a line for the console.
pub fn ready_with_status(status: &str) -> io::Result<()> {
    notify(&format!("READY=1\nSTATUS={status}"))
}

/// Has PID 1 show a line on the console.
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
    fn the_word_arrives_at_a_socket_of_either_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("keelson-control-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{abstract_name}")),
        ];
        for (supervisor, name) in sockets {
            send(OsStr::new(&name), b"READY=1").unwrap();
            let mut buffer = [0; 64];
            let length = supervisor.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(send(directory.path().join("absent").as_os_str(), b"READY=1").is_err());
    }
}
