//! `cargo vm image`: the disk image.

use crate::build::{BuildError, disk_image};
use crate::project::Project;
use crate::report::Report;

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ImageError(#[from] BuildError);

/// Builds everything, then the disk image, and prints where it is.
pub(super) fn image() -> Result<(), ImageError> {
    let mut report = Report::default();
    let project = Project::of_this_build();
    let image = project.image(&mut report)?;
    let disk = disk_image::build(&project.request()?, &image, &mut report)?;
    report.line(&format!("raw:   {}", disk.raw.display()));
    report.line(&format!("qcow2: {}", disk.qcow2.display()));
    report.line(&format!("uki:   {}", disk.uki.display()));
    report.line(&format!("root hash: {}", disk.root_hash));
    Ok(())
}
