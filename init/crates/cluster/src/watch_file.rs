//! Waits for a file that others replace by rename, with inotify(7) on its directory: the file itself is another one after
//! each rename, and may not exist yet.
//!
//! A thread blocks on the descriptor, because registering a foreign descriptor with the runtime is not possible without
//! `unsafe`. It ends soon after its [`FileWatch`] is gone.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::Notify;

/// A change that inotify did not tell of (its queue may overflow) is seen after this long.
const RECHECK: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
#[error("watching {path}")]
pub struct WatchError {
    path: PathBuf,
    source: std::io::Error,
}

#[derive(Debug)]
pub struct FileWatch {
    changed: Arc<Notify>,
}

impl FileWatch {
    /// Watches the directory that holds `path`. A change between this call and the first wait is not lost.
    pub fn new(path: &Path) -> Result<Self, WatchError> {
        let watch_error = |source| WatchError { path: path.to_owned(), source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let descriptor = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|error| watch_error(error.into()))?;
        let events = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::DELETE;
        inotify::add_watch(&descriptor, directory, events).map_err(|error| watch_error(error.into()))?;
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        std::thread::Builder::new()
            .name("watch-file".to_owned())
            .spawn(move || notify_of_changes(&descriptor, &notify))
            .map_err(watch_error)?;
        Ok(Self { changed })
    }

    /// Returns when something in the directory may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What happened does not matter: whoever waits looks at the file itself.
fn notify_of_changes(descriptor: &OwnedFd, changed: &Arc<Notify>) {
    let timeout = Timespec { tv_sec: RECHECK.as_secs().cast_signed(), tv_nsec: 0 };
    let mut buffer = [0_u8; 4096];
    while Arc::strong_count(changed) > 1 {
        let mut descriptors = [PollFd::new(descriptor, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        while matches!(rustix::io::read(descriptor, &mut buffer), Ok(length) if length > 0) {}
        changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_for_a_file_that_is_renamed_into_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let watch = FileWatch::new(&path).unwrap();
        let temporary = directory.path().join(".new");
        std::fs::write(&temporary, b"{}").unwrap();
        std::fs::rename(&temporary, &path).unwrap();
        tokio::time::timeout(RECHECK / 2, watch.changed()).await.expect("a change is told before the recheck");
    }

    #[test]
    fn a_directory_that_does_not_exist_is_an_error() {
        assert!(FileWatch::new(Path::new("/nonexistent/state.json")).is_err());
    }
}
