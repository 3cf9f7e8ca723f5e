//! Signals to PID 1 outside supervision: before it, after it, and in recovery.
//!
//! They are blocked from the first instruction on, so none is lost between boot, supervision and recovery, and none
//! interrupts a call. Children start with an empty mask (keelson-sys, `process`).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use keelson_init::buttons::Buttons;
use keelson_sys::reaper;
use keelson_sys::signals::{self, Signals};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

/// Somebody wants the machine to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Reboot,
    PowerOff,
}

/// From here on signals wait until somebody reads them.
pub(crate) fn block_all() {
    // The mask stays when the descriptor goes. Without a descriptor it is set all the same.
    drop(Signals::block());
}

/// Reaps until the limit. Returns early with a request, of a signal or of a power button.
pub(crate) fn wait_for_request(limit: Duration, buttons: &mut Buttons) -> Option<Request> {
    let signals = Signals::block().ok();
    let deadline = Instant::now() + limit;
    loop {
        reap_all();
        if let Some(request) = signals.as_ref().and_then(next_request) {
            return Some(request);
        }
        if buttons.pressed() {
            return Some(Request::PowerOff);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        // Without a descriptor (the kernel has no memory for one) this is a timer, and waiting still ends in time.
        let sources = signals.iter().map(AsFd::as_fd).chain(buttons.descriptors());
        let mut descriptors: Vec<_> = sources.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)).collect();
        let _ = Timespec::try_from(left).map(|timeout| poll(&mut descriptors, Some(&timeout)));
    }
}

fn next_request(signals: &Signals) -> Option<Request> {
    while let Ok(Some(signal)) = signals.read() {
        match signal {
            signals::INTERRUPT => return Some(Request::Reboot),
            signals::POWER => return Some(Request::PowerOff),
            _ => {}
        }
    }
    None
}

/// Reaps until no child is left or the limit is over. Returns whether some are left.
pub(crate) fn reap_until_alone(limit: Duration) -> bool {
    const INTERVAL: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + limit;
    loop {
        reap_all();
        if !reaper::has_children() {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        wait_for_request(left.min(INTERVAL), &mut Buttons::default());
    }
}

/// Reaps every child that has ended. Under supervision it would steal a service's status.
fn reap_all() {
    while let Ok(Some(pid)) = reaper::peek() {
        if reaper::reap(pid).is_err() {
            return;
        }
    }
}
