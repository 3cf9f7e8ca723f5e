//! The hardware watchdog: armed before services start, and never disarmed again. Its own word on the last reset goes into the
//! boot history.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_sys::watchdog::Watchdog;
use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::console::Console;

/// After how long without being fed the machine is reset. Far longer than any pause of the event loop, an emulated machine's
/// included.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How often the event loop feeds it: several chances within the timeout.
pub(crate) const INTERVAL: Duration = Duration::from_secs(15);
const CLASS: &str = "/sys/class/watchdog";

#[derive(Debug, Error)]
enum WatchdogError {
    #[error("cannot arm {}", path.display())]
    Arm { path: PathBuf, source: io::Error },
    #[error("cannot set the timeout of {}", path.display())]
    Timeout { path: PathBuf, source: io::Error },
}

pub(super) fn run(machine: &mut Machine, console: &mut Console) -> PhaseResult {
    let Some(device) = choose(found(Path::new(CLASS))) else {
        return Ok("this machine has none".to_owned());
    };
    let path = Path::new("/dev").join(&device.name);
    let watchdog = Watchdog::arm(&path).map_err(|source| WatchdogError::Arm { path: path.clone(), source })?;
    let timeout = watchdog.set_timeout(TIMEOUT);
    let driver = device.driver.as_deref().unwrap_or("the kernel's timer");
    // A driver that cannot tell is no news.
    if watchdog.has_reset_the_machine().unwrap_or(false) {
        console.warn("watchdog", format_args!("{driver} reset this machine before this boot"));
        machine.watchdog_verdict = Some(format!("reset by the watchdog ({driver})"));
    }
    // Armed is armed: it must be fed, whatever its timeout is.
    machine.watchdog = Some(watchdog);
    let timeout = timeout.map_err(|source| WatchdogError::Timeout { path, source })?;
    Ok(format!("{driver} resets this machine after {} s without a sign of life", timeout.as_secs()))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    name: String,
    /// The driver of the hardware. The kernel's own timer that plays watchdog (softdog) has none.
    driver: Option<String>,
}

fn found(class: &Path) -> Vec<Device> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut devices: Vec<_> = names.map(|name| Device { driver: driver(&class.join(&name)), name }).collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn driver(device: &Path) -> Option<String> {
    let link = fs::read_link(device.join("device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Somebody gave a virtual machine this one for the purpose, and it can tell of the last reset; the chipset's own (iTCO), which
/// is there anyway, cannot.
const PREFERRED: &str = "i6300ESB";

/// The preferred piece of hardware, else the first, else the kernel's timer, which dies with the kernel.
fn choose(mut devices: Vec<Device>) -> Option<Device> {
    devices.sort_by_key(|device| match &device.driver {
        Some(driver) if driver.starts_with(PREFERRED) => 0,
        Some(_) => 1,
        None => 2,
    });
    devices.into_iter().next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn hardware_goes_before_the_kernels_timer() {
        let class = tempfile::tempdir().unwrap();
        fs::create_dir(class.path().join("watchdog0")).unwrap();
        fs::create_dir_all(class.path().join("watchdog1/device")).unwrap();
        symlink("../../bus/pci/drivers/i6300ESB timer", class.path().join("watchdog1/device/driver")).unwrap();
        fs::create_dir_all(class.path().join("watchdog2/device")).unwrap();
        symlink("../../bus/platform/drivers/iTCO_wdt", class.path().join("watchdog2/device/driver")).unwrap();
        let devices = found(class.path());
        let chipset = [devices[0].clone(), devices[2].clone()];
        assert_eq!(choose(chipset.to_vec()).unwrap().name, "watchdog2");
        let hardware = Device { name: "watchdog1".to_owned(), driver: Some("i6300ESB timer".to_owned()) };
        assert_eq!(choose(devices.clone()), Some(hardware));
        assert_eq!(choose(devices[..1].to_vec()).unwrap().name, "watchdog0");
        assert_eq!(choose(found(Path::new("/nonexistent"))), None);
    }

    #[test]
    fn timeout_leaves_room_for_missed_meals() {
        assert!(INTERVAL * 3 < TIMEOUT);
    }
}
