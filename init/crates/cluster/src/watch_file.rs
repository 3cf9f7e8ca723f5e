//! Waits for a file that others replace by rename, with inotify(7) on its directory: the file itself is another one after
//! each rename, and may not exist yet.
//!
//! A thread blocks on the descriptor, because registering a foreign descriptor with the runtime is not possible without
//! `unsafe`. It ends with its [`FileWatch`]. That the queue of events was too short for them is an event, too, so the thread looks at nothing in
//! between.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::Notify;

#[derive(Debug, thiserror::Error)]
#[error("watching {path}")]
pub struct WatchError {
    path: PathBuf,
    source: std::io::Error,
}

#[derive(Debug)]
pub struct FileWatch {
    changed: Arc<Notify>,
    /// Closed, it ends the thread.
    _end: OwnedFd,
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
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| watch_error(error.into()))?;
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        std::thread::Builder::new()
            .name("watch-file".to_owned())
            .spawn(move || notify_of_changes(&descriptor, &ended, &notify))
            .map_err(watch_error)?;
        Ok(Self { changed, _end: end })
    }

    /// Returns when something in the directory may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What happened does not matter: whoever waits looks at the file itself.
fn notify_of_changes(descriptor: &OwnedFd, ended: &OwnedFd, changed: &Notify) {
    let mut buffer = [0_u8; 4096];
    loop {
        let mut descriptors = [PollFd::new(descriptor, PollFlags::IN), PollFd::new(ended, PollFlags::empty())];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let [_, end] = &descriptors;
        if !end.revents().is_empty() {
            return;
        }
        while matches!(rustix::io::read(descriptor, &mut buffer), Ok(length) if length > 0) {}
        changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn wakes_for_a_file_that_is_renamed_into_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let watch = FileWatch::new(&path).unwrap();
        let temporary = directory.path().join(".new");
        std::fs::write(&temporary, b"{}").unwrap();
        std::fs::rename(&temporary, &path).unwrap();
        tokio::time::timeout(DEADLINE, watch.changed()).await.expect("a change is told");
    }

    #[tokio::test]
    async fn wakes_though_the_queue_of_events_was_too_short_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let watch = FileWatch::new(&directory.path().join("state.json")).unwrap();
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        // Equal events in a row are one, so two names take turns.
        for number in 0..limit + 100 {
            std::fs::write(directory.path().join(["a", "b"][number % 2]), b"").unwrap();
        }
        tokio::time::timeout(DEADLINE, watch.changed()).await.expect("a change is told");
        while tokio::time::timeout(Duration::from_millis(100), watch.changed()).await.is_ok() {}
        std::fs::write(directory.path().join("state.json"), b"{}").unwrap();
        tokio::time::timeout(DEADLINE, watch.changed()).await.expect("and the next one");
    }

    #[tokio::test]
    async fn the_thread_ends_with_the_watch() {
        let directory = tempfile::tempdir().unwrap();
        let watch = FileWatch::new(&directory.path().join("state.json")).unwrap();
        let thread = Arc::downgrade(&watch.changed);
        assert_eq!(thread.strong_count(), 2);
        drop(watch);
        let ended = async {
            while thread.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.expect("the thread ends");
    }

    #[test]
    fn a_directory_that_does_not_exist_is_an_error() {
        assert!(FileWatch::new(Path::new("/nonexistent/state.json")).is_err());
    }
}
