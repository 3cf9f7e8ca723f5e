//! The hardware watchdog: armed before services start, and never disarmed again.

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
/// The identity of the kernel's own timer that plays watchdog: it dies with the kernel, so hardware goes before it.
const SOFTWARE: &str = "Software Watchdog";
const CLASS: &str = "/sys/class/watchdog";

#[derive(Debug, Error)]
enum WatchdogError {
    #[error("cannot arm {}", path.display())]
    Arm { path: PathBuf, source: io::Error },
    #[error("cannot set the timeout of {}", path.display())]
    Timeout { path: PathBuf, source: io::Error },
}

pub(super) fn run(machine: &mut Machine, _: &mut Console) -> PhaseResult {
    let Some((name, identity)) = choose(found(Path::new(CLASS))) else {
        return Ok("this machine has none".to_owned());
    };
    let path = Path::new("/dev").join(&name);
    let watchdog = Watchdog::arm(&path).map_err(|source| WatchdogError::Arm { path: path.clone(), source })?;
    let timeout = watchdog.set_timeout(TIMEOUT);
    // Armed is armed: it must be fed, whatever its timeout is.
    machine.watchdog = Some(watchdog);
    let timeout = timeout.map_err(|source| WatchdogError::Timeout { path, source })?;
    Ok(format!("{identity} resets this machine after {} s without a sign of life", timeout.as_secs()))
}

/// The devices with their drivers' names.
fn found(class: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut devices: Vec<_> = names
        .map(|name| {
            let identity = fs::read_to_string(class.join(&name).join("identity")).unwrap_or_default();
            (name, identity.trim().to_owned())
        })
        .collect();
    devices.sort();
    devices
}

/// The first piece of hardware, else the kernel's timer.
fn choose(mut devices: Vec<(String, String)>) -> Option<(String, String)> {
    devices.sort_by_key(|(_, identity)| identity == SOFTWARE);
    devices.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_goes_before_the_kernels_timer() {
        let device = |name: &str, identity: &str| (name.to_owned(), identity.to_owned());
        let both = vec![device("watchdog0", SOFTWARE), device("watchdog1", "i6300ESB timer")];
        assert_eq!(choose(both).unwrap().0, "watchdog1");
        assert_eq!(choose(vec![device("watchdog0", SOFTWARE)]).unwrap().0, "watchdog0");
        assert_eq!(choose(Vec::new()), None);
    }

    #[test]
    fn timeout_leaves_room_for_missed_meals() {
        assert!(INTERVAL * 3 < TIMEOUT);
    }
}
