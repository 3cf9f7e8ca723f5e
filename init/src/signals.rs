//! Signals to PID 1 outside supervision: before it, after it, and in recovery.
//!
//! They are blocked from the first instruction on, so none is lost between boot, supervision and recovery, and none
//! interrupts a call. Children start with an empty mask (keelson-sys, `process`).
//!
//! What a power button says is told to those only who had it open when it was pressed. So whoever waits for requests is given the same
//! [`Requests`], from the beginning of a stage of the boot to the machine's end.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use keelson_init::buttons::Buttons;
use keelson_sys::reaper;
use keelson_sys::signals::{self, Signals};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::boot::Action;

/// Somebody wants the machine to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) action: Action,
    /// What was pressed.
    pub(crate) by: &'static str,
}

/// From here on signals wait until somebody reads them.
pub(crate) fn block_all() {
    // The mask stays when the descriptor goes. Without a descriptor it is set all the same.
    drop(Signals::block());
}

/// Where requests come from: signals and power buttons.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    signals: Option<Signals>,
    buttons: Buttons,
}

impl Requests {
    /// Opens what is not open.
    pub(crate) fn open(&mut self) {
        if self.signals.is_none() {
            self.signals = Signals::block().ok();
        }
        if self.buttons.descriptors().next().is_none() {
            self.buttons = Buttons::open();
        }
    }

    /// For the supervisor, which reads signals by itself.
    pub(crate) fn give_buttons(&mut self) -> Buttons {
        std::mem::take(&mut self.buttons)
    }

    pub(crate) fn pending(&mut self) -> Option<Request> {
        let signalled = self.signals.as_ref().and_then(next_request);
        let pressed = || Request { action: Action::PowerOff, by: "power button" };
        signalled.or_else(|| self.buttons.pressed().then(pressed))
    }

    /// What becomes readable with a request, or with a signal that is none.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.signals.iter().map(AsFd::as_fd).chain(self.buttons.descriptors())
    }

    /// Reaps until the limit. Returns early with a request.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<Request> {
        let deadline = Instant::now() + limit;
        loop {
            reap_all();
            if let Some(request) = self.pending() {
                return Some(request);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Without a descriptor (the kernel has no memory for one) this is a timer, and waiting still ends in time.
            let mut descriptors: Vec<_> =
                self.descriptors().map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)).collect();
            let _ = Timespec::try_from(left).map(|timeout| poll(&mut descriptors, Some(&timeout)));
        }
    }
}

fn next_request(signals: &Signals) -> Option<Request> {
    while let Ok(Some(signal)) = signals.read() {
        match signal {
            signals::INTERRUPT => return Some(Request { action: Action::Reboot, by: "ctrl-alt-del" }),
            signals::POWER => return Some(Request { action: Action::PowerOff, by: "power failure signal" }),
            _ => {}
        }
    }
    None
}

/// Reaps until no child is left or the limit is over. Returns whether some are left.
pub(crate) fn reap_until_alone(limit: Duration) -> bool {
    const INTERVAL: Duration = Duration::from_millis(50);
    // A child's end is a signal. Who asks for the machine's end now has it already.
    let mut signals = Requests { signals: Signals::block().ok(), ..Requests::default() };
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
        signals.wait(left.min(INTERVAL));
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

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::OwnedFd;

    use rustix::pipe::PipeFlags;

    use super::*;

    pub(crate) const POWER_OFF: Request = Request { action: Action::PowerOff, by: "power button" };

    /// The far end of a pipe that stands for a power button.
    pub(crate) struct Button(OwnedFd);

    impl Button {
        pub(crate) fn press(&self) {
            // `struct input_event`: the time, EV_KEY, KEY_POWER, down.
            let event = [&[0_u8; 16][..], &1_u16.to_ne_bytes(), &116_u16.to_ne_bytes(), &1_i32.to_ne_bytes()].concat();
            rustix::io::write(&self.0, &event).unwrap();
        }
    }

    pub(crate) fn with_a_button() -> (Requests, Button) {
        let (device, kernel) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        (Requests { signals: None, buttons: Buttons::of(vec![device]) }, Button(kernel))
    }

    #[test]
    fn press_is_a_request_once() {
        let (mut requests, button) = with_a_button();
        assert_eq!(requests.pending(), None);
        button.press();
        assert_eq!(requests.pending(), Some(POWER_OFF));
        assert_eq!(requests.pending(), None);
    }
}
