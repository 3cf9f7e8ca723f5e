//! The hardware watchdog: armed as soon as its device file is there, and never disarmed again. Its own word on the last reset goes into the
//! boot history.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_sys::watchdog::Watchdog;
use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::console::Console;

/// After how long without being fed the machine is to be reset. Far longer than any pause of the event loop, an emulated machine's
/// included. A device that takes less is fed more often.
const TIMEOUT: Duration = Duration::from_mins(1);
const CLASS: &str = "/sys/class/watchdog";

#[derive(Debug, Error)]
#[error("cannot arm {}", path.display())]
struct ArmError {
    path: PathBuf,
    source: io::Error,
}

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let Some(device) = choose(found(Path::new(CLASS))) else {
        return Ok("this machine has none".to_owned());
    };
    let path = Path::new("/dev").join(&device.name);
    let mut watchdog = Watchdog::arm(&path).map_err(|source| ArmError { path, source })?;
    let driver = device.identity;
    if let Err(error) = watchdog.set_timeout(TIMEOUT) {
        console.warn("watchdog", format_args!("{driver} takes no timeout of {} s: {error}", TIMEOUT.as_secs()));
    }
    // A driver that cannot tell is no news.
    if watchdog.has_reset_the_machine().unwrap_or(false) {
        console.warn("watchdog", format_args!("{driver} reset this machine before this boot"));
        machine.vitals.progress.watchdog = Some(format!("reset by the watchdog ({driver})"));
    }
    let timeout = watchdog.timeout().map_or("some time".to_owned(), |timeout| format!("{} s", timeout.as_secs()));
    machine.vitals.watchdog = Some(watchdog);
    Ok(format!("{driver} resets this machine after {timeout} without a sign of life"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    name: String,
    /// What its driver calls it (sysfs-class-watchdog). Not every driver says which hardware it drives.
    identity: String,
}

fn found(class: &Path) -> Vec<Device> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut devices: Vec<_> = names.map(|name| Device { identity: identity(&class.join(&name)), name }).collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn identity(device: &Path) -> String {
    fs::read_to_string(device.join("identity")).unwrap_or_default().trim().to_owned()
}

/// Somebody gave a virtual machine this one for the purpose, and it can tell of the last reset; the chipset's own (iTCO), which
/// is there anyway, cannot.
const PREFERRED: &str = "i6300ESB timer";
/// The kernel's own timer that plays watchdog (softdog).
const KERNELS_TIMER: &str = "Software Watchdog";

/// The preferred piece of hardware, else the first, else the kernel's timer, which dies with the kernel.
fn choose(mut devices: Vec<Device>) -> Option<Device> {
    devices.sort_by_key(|device| match device.identity.as_str() {
        PREFERRED => 0,
        KERNELS_TIMER => 2,
        _ => 1,
    });
    devices.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_goes_before_the_kernels_timer() {
        let class = tempfile::tempdir().unwrap();
        for (name, identity) in [("watchdog0", KERNELS_TIMER), ("watchdog1", PREFERRED), ("watchdog2", "iTCO_wdt")] {
            fs::create_dir(class.path().join(name)).unwrap();
            fs::write(class.path().join(name).join("identity"), format!("{identity}\n")).unwrap();
        }
        let devices = found(class.path());
        let chosen = |devices: &[Device]| choose(devices.to_vec()).unwrap().identity;
        assert_eq!(chosen(&devices), PREFERRED);
        assert_eq!(chosen(&[devices[0].clone(), devices[2].clone()]), "iTCO_wdt");
        assert_eq!(chosen(&devices[..1]), KERNELS_TIMER);
        assert_eq!(choose(found(Path::new("/nonexistent"))), None);
    }
}
