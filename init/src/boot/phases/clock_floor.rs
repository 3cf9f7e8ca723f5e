//! The clock floor: no time before it can be right.
//!
//! A machine without a battery starts in 1970, and certificates made then are worth nothing. So the clock is moved up to the time the
//! image was built and, once STATE is there, to the time that it last remembers, and never down: the kernel has set it from
//! the hardware clock, and time servers correct it later.
//!
//! Only the build time is a floor to those who come later: it is published, and keelson-network never sets the clock below it. What STATE
//! remembers was saved by a clock that may have run ahead. If that were a floor too, one boot with a wrong hardware clock would keep
//! the right time out of this node for ever; so it is where the clock begins, and a time server may take it back. Without any time server such
//! a node stays ahead: nothing on it can tell which of its two clocks is wrong.

use std::fs;
use std::io;
use std::time::Duration;

use keelson_sys::clock;
use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::console::Console;

/// When the image was built: seconds since the epoch, decimal.
const BUILD_TIME: &str = "/usr/share/keelson/build-time";

#[derive(Debug, Error)]
pub(super) enum ClockError {
    #[error("cannot read {BUILD_TIME}")]
    BuildTime(#[source] io::Error),
    #[error("{BUILD_TIME} does not hold a number of seconds")]
    NotANumber,
    #[error("cannot set the clock")]
    Set(#[source] io::Error),
}

pub(super) fn run(_: &mut Machine, _: &mut Console) -> PhaseResult {
    Ok(raise_to(build_time()?)?.unwrap_or_default())
}

pub(super) fn build_time() -> Result<Duration, ClockError> {
    let text = fs::read_to_string(BUILD_TIME).map_err(ClockError::BuildTime)?;
    text.trim().parse().map(Duration::from_secs).map_err(|_| ClockError::NotANumber)
}

/// No image is in use for longer; a saved time that claims so was saved by a machine whose clock had run wild.
const IMAGE_LIFE: Duration = Duration::from_hours(20 * 365 * 24);

/// Moves the clock up to the saved time, if that can be right.
pub(super) fn raise_to_saved(saved: Duration) -> Result<Option<String>, ClockError> {
    let latest = build_time().unwrap_or_default().saturating_add(IMAGE_LIFE);
    if saved > latest { Ok(None) } else { raise_to(saved) }
}

/// Moves the clock up to `floor` if it is below. Says so if it did.
pub(super) fn raise_to(floor: Duration) -> Result<Option<String>, ClockError> {
    let now = clock::wall();
    if now >= floor {
        return Ok(None);
    }
    clock::set_wall(floor).map_err(ClockError::Set)?;
    Ok(Some(format!(
        "the hardware's clock was {} s behind the earliest possible time and was set to it",
        floor.saturating_sub(now).as_secs()
    )))
}
