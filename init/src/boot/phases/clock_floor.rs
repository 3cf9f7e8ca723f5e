//! The clock floor: no time before it can be right.
//!
//! A machine without a battery starts in 1970, and certificates made then are worth nothing. The floor is the latest of the
//! time the image was built and, once STATE is there, the time it last remembers. The clock is moved up to it and never
//! down: the kernel has set it from the hardware clock, and time servers correct it later. The floor itself is published,
//! so that keelson-network never sets the clock below it.

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

/// The floor that STATE's saved time makes, if it can be right.
pub(super) fn saved_floor(saved: Duration) -> Option<Duration> {
    let latest = build_time().unwrap_or_default().saturating_add(IMAGE_LIFE);
    (saved <= latest).then_some(saved)
}

/// Moves the clock up to the saved time.
pub(super) fn raise_to_saved(saved: Duration) -> Result<Option<String>, ClockError> {
    saved_floor(saved).map_or(Ok(None), raise_to)
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
