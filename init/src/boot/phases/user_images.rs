//! The user's own OCI archives, on a disk labelled for that.

use keelson_job::{Request, USER_IMAGES, UserImages};

use super::{Machine, PhaseResult};
use crate::console::Console;

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let images: UserImages = machine.job(console, &Request::UserImages)?;
    Ok(images.device.map(|device| format!("{device} is mounted at {USER_IMAGES}")).unwrap_or_default())
}
