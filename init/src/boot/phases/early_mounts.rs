//! The kernel's file systems, then the console, which needs them, and ctrl-alt-del.

use keelson_sys::power;

use super::{Machine, PhaseResult};
use crate::boot::mounts;
use crate::console::Console;

pub(super) fn run(_: &mut Machine, console: &mut Console) -> PhaseResult {
    let missing = mounts::mount_all()?;
    console.open();
    if let Err(error) = power::ctrl_alt_del_signals() {
        console.warn("mounts", format_args!("ctrl-alt-del reboots without a sync: {error}"));
    }
    Ok(if missing.is_empty() {
        "all mounted".to_owned()
    } else {
        format!("all mounted but {}, which this machine does not have", missing.join(", "))
    })
}
