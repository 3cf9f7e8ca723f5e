//! `cargo vm image`: the disk image. `cargo vm keys`: what signs it.

use std::path::Path;

use crate::build::secure_boot::Keys;
use crate::build::{self, BuildError, disk_image};
use crate::project::Project;
use crate::report::Report;

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ImageError(#[from] BuildError);

/// Makes keys for Secure Boot and prints where they are.
pub(super) fn keys(folder: Option<&Path>) -> Result<(), ImageError> {
    let project = Project::of_this_build();
    let mut report = Report::default();
    let place = folder.map_or_else(|| project.target().join("secure-boot-keys"), Path::to_path_buf);
    Keys::make(&place, true, project.target().join("image/logs"), &mut report)?;
    report.line(&format!("keys: {}", place.display()));
    report.line("PK.key, KEK.key and db.key are secret: who has them decides what these machines boot");
    Ok(())
}

/// Builds everything, then the disk image, and prints where it is.
pub(super) fn image(keys: Option<&Path>) -> Result<(), ImageError> {
    let keys = keys.map(Keys::open).transpose()?;
    let mut report = Report::default();
    let project = Project::of_this_build();
    let image = project.image(&mut report)?;
    let request = project.request()?;
    let disk = disk_image::build(&request, &image, keys.as_ref(), &mut report)?;
    let bill = build::bill_of_materials(&request, &image, &mut report)?;
    report.line(&format!("raw:   {}", disk.raw.display()));
    report.line(&format!("qcow2: {}", disk.qcow2.display()));
    report.line(&format!("uki:   {}", disk.uki.display()));
    report.line(&format!("bill:  {}", bill.display()));
    report.line(&format!("root hash: {}", disk.root_hash));
    Ok(())
}
