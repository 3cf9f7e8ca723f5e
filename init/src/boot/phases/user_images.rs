//! The user's own OCI archives, on a disk labelled for that.

use keelson_job::{Request, USER_IMAGES, UserImages};

use super::{Machine, PhaseResult};
use crate::boot::job;
use crate::console::Console;

pub(super) fn run(_: &mut Machine, console: &mut Console) -> PhaseResult {
    let images: UserImages = job::run(console, &Request::UserImages)?;
    Ok(images.device.map(|device| format!("{device} is mounted at {USER_IMAGES}")).unwrap_or_default())
}
