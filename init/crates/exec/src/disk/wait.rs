//! Waiting for the kernel to find a device. There is no event that says "all disks are found", so it is asked again and again.

use std::time::{Duration, Instant};

use rustix::event::poll;
use rustix::time::Timespec;

/// How long a device may take to appear that must be there: a partition just made, a label that was asked for.
pub(super) const DEVICE_LIMIT: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks until there is an answer or the limit is over.
pub(crate) fn until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || start.elapsed() >= limit {
            return answer;
        }
        pause();
    }
}

pub(super) fn pause() {
    // A poll without descriptors is a timer.
    let _ = Timespec::try_from(INTERVAL).map(|interval| poll(&mut [], Some(&interval)));
}
