//! Unix sockets that admit named accounts only.
//!
//! The mode keeps others out, and the peer's credentials are checked besides: a descriptor may be passed on, and a
//! directory's mode may be changed by a mistake.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

/// Before another try when a connection could not be accepted.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Who may connect, apart from root and this process' own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub uid: u32,
    pub gid: u32,
}

impl Admitted {
    pub const fn account(id: u32) -> Self {
        Self { uid: id, gid: id }
    }

    pub const ROOT: Self = Self::account(0);

    pub fn admits(self, stream: &UnixStream) -> bool {
        let own = rustix::process::geteuid().as_raw();
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.uid || peer.uid() == 0 || peer.uid() == own)
    }
}

/// Listens at `path`, replacing what a former process left there.
pub fn listen(path: &Path, admitted: Admitted) -> std::io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(admitted.uid), Some(admitted.gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The next admitted connection, or `None` for one that was refused.
pub async fn accept(listener: &UnixListener, admitted: Admitted) -> Option<UnixStream> {
    if let Ok((stream, _)) = listener.accept().await {
        admitted.admits(&stream).then_some(stream)
    } else {
        // Out of descriptors, most likely: whoever holds them needs time to give some back.
        tokio::time::sleep(ACCEPT_PAUSE).await;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_a_socket_that_a_former_process_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own/signer.sock");
        drop(listen(&path, Admitted::ROOT).unwrap());
        let listener = listen(&path, Admitted::ROOT).unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        assert!(accept(&listener, Admitted::ROOT).await.is_some(), "this process' own account is admitted");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
