//! Supervision.
use std::time::Duration;

use crate::boot::{Action, Boot, Verdict};
use crate::console::Console;
use crate::signals::Signals;

pub(crate) fn run(console: &mut Console, boot: &mut Boot) -> Verdict {
    let signals = Signals::open();
    console.info("services", format_args!("{} is up", boot.facts.hostname));
    loop {
        if let Some(signal) = signals.wait_for_request(Duration::from_secs(5)) {
            return Verdict { action: Action::Reboot, reason: signal.to_string() };
        }
        if let Some(watchdog) = &mut boot.watchdog {
            let _ = watchdog.feed();
        }
    }
}
