//! A machine: a folder with its disk, its key and its console, and a QEMU that may or may not be running.
//!
//! `machine.json` in the folder is all that is known of it, so that another invocation finds it again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::console::{Console, Silence};
use crate::qemu::{self, Folder, Hardware, Network, Ports, QemuError, Segment, Speed};
use crate::qmp::{self, QmpError};
use crate::wait;

/// From the request to the machine's end, or to the first line of its next boot: PID 1 gives services 120 s and the rest 40 s (keelson-init,
/// `shutdown.rs`), however slow the machine is. Some seconds are QEMU's own.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(165);
/// QEMU has nothing to write back when it is killed; it only has to be reaped.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("cannot {operation} {path}", path = path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not a machine's description", path = path.display())]
    Description { path: PathBuf, source: serde_json::Error },
    #[error("there is no machine {name:?}; `cargo vm up --name {name}` makes one")]
    Unknown { name: String },
    #[error("machine {name:?} is not running")]
    Stopped { name: String },
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("QEMU ended at once; it said:\n{output}")]
    EndedAtOnce { output: String },
    #[error("machine {name:?} did not end")]
    StillRunning { name: String, source: Box<Silence> },
}

/// What is done to the cable between a machine and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Link {
    Up,
    Down,
    /// What is sent and received is held back and let go every 200 ms
    Slow,
}

const SLOW_INTERVAL: Duration = Duration::from_millis(200);
const SLOW_LINK: &str = "slow-link";

/// What `machine.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    pub hardware: Hardware,
    pub speed: Speed,
    /// QEMU's process id at the last start.
    pub process: Option<u32>,
}

#[derive(Debug)]
pub struct Machine {
    name: String,
    folder: Folder,
    description: Description,
}

impl Machine {
    /// Writes down a machine that has not run yet. `folder` exists and is the machine's own.
    pub fn create(folder: &Path, hardware: Hardware, speed: Speed) -> Result<Self, MachineError> {
        let machine = Self {
            name: name_of(folder),
            folder: Folder(folder.to_owned()),
            description: Description { hardware, speed, process: None },
        };
        machine.save()?;
        Ok(machine)
    }

    pub fn open(folder: &Path) -> Result<Self, MachineError> {
        let name = name_of(folder);
        let path = folder.join("machine.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MachineError::Unknown { name }),
            Err(source) => return Err(MachineError::File { operation: "read", path, source }),
        };
        let description = serde_json::from_slice(&text).map_err(|source| MachineError::Description { path, source })?;
        Ok(Self { name, folder: Folder(folder.to_owned()), description })
    }

    fn save(&self) -> Result<(), MachineError> {
        let path = self.folder.0.join("machine.json");
        let text = serde_json::to_vec_pretty(&self.description)
            .map_err(|source| MachineError::Description { path: path.clone(), source })?;
        std::fs::write(&path, text).map_err(|source| MachineError::File { operation: "write", path, source })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    pub fn hardware(&self) -> &Hardware {
        &self.description.hardware
    }

    /// Changes what the machine is started with the next time.
    pub fn change_hardware(&mut self, change: impl FnOnce(&mut Hardware)) -> Result<(), MachineError> {
        change(&mut self.description.hardware);
        self.save()
    }

    /// The machine's place among machines that share a segment.
    pub fn segment(&self) -> Option<Segment> {
        match self.description.hardware.network {
            Network::Segment { segment, .. } => Some(segment),
            Network::User(_) | Network::Silent => None,
        }
    }

    pub fn speed(&self) -> Speed {
        self.description.speed
    }

    /// The forwarded ports, if the machine is on the user network.
    pub fn ports(&self) -> Option<Ports> {
        match self.description.hardware.network {
            Network::User(ports) | Network::Segment { ports, .. } => Some(ports),
            Network::Silent => None,
        }
    }

    pub fn console(&self) -> Console {
        Console::new(&self.folder.console_log())
    }

    pub fn console_socket(&self) -> PathBuf {
        self.folder.console_socket()
    }

    /// A process of the noted id that has this machine's QMP socket in its arguments; ids are used again.
    pub fn process(&self) -> Option<u32> {
        let id = self.description.process?;
        let arguments = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let socket = self.folder.qmp_socket();
        qemu::contains(&arguments, socket.as_os_str().as_encoded_bytes()).then_some(id)
    }

    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// Turns the machine on. What an earlier run printed is kept as `console.log.1`.
    pub fn start(&mut self) -> Result<(), MachineError> {
        let log = self.folder.console_log();
        if log.exists() {
            let kept = log.with_extension("log.1");
            std::fs::rename(&log, &kept).map_err(|source| MachineError::File {
                operation: "rename",
                path: log,
                source,
            })?;
        }
        let Description { hardware, speed, .. } = &self.description;
        self.description.process = Some(qemu::start(hardware, speed.accelerator, &self.folder)?);
        self.save()?;
        let socket = self.folder.qmp_socket();
        let answered = wait::until("QEMU to answer", KILL_DEADLINE, || {
            if self.has_ended() {
                return Ok(false);
            }
            qmp::execute(&socket, "query-status", &json!({})).map(|_| true).map_err(|error| error.to_string())
        });
        if answered.unwrap_or(false) {
            return Ok(());
        }
        self.cut_power()?;
        let output = std::fs::read_to_string(self.folder.qemu_log()).unwrap_or_default();
        Err(MachineError::EndedAtOnce { output })
    }

    pub fn qmp(&self, command: &str, arguments: &serde_json::Value) -> Result<serde_json::Value, MachineError> {
        if !self.is_running() {
            return Err(MachineError::Stopped { name: self.name.clone() });
        }
        Ok(qmp::execute(&self.folder.qmp_socket(), command, arguments)?)
    }

    /// Presses the power button (ACPI).
    pub fn press_power_button(&self) -> Result<(), MachineError> {
        self.qmp("system_powerdown", &json!({})).map(drop)
    }

    /// Presses keys of the keyboard together, by QEMU's names for them.
    pub fn press_keys(&self, keys: &[&str]) -> Result<(), MachineError> {
        let keys: Vec<_> = keys.iter().map(|key| json!({"type": "qcode", "data": key})).collect();
        self.qmp("send-key", &json!({ "keys": keys })).map(drop)
    }

    /// Presses the button of some servers that a kernel answers with a panic, if it was told to (`unknown_nmi_panic`).
    pub fn press_nmi_button(&self) -> Result<(), MachineError> {
        self.qmp("inject-nmi", &json!({})).map(drop)
    }

    /// Pulls the cable of the segment, puts it back, or makes it slow.
    pub fn set_segment_link(&self, link: Link) -> Result<(), MachineError> {
        self.qmp("set_link", &json!({"name": qemu::SEGMENT_LINK, "up": link != Link::Down}))?;
        let slow = self.qmp("qom-list", &json!({"path": format!("/objects/{SLOW_LINK}")})).is_ok();
        match (link, slow) {
            (Link::Slow, false) => {
                let interval = SLOW_INTERVAL.as_micros();
                let filter = json!({
                    "qom-type": "filter-buffer", "id": SLOW_LINK, "netdev": qemu::SEGMENT, "interval": interval,
                });
                self.qmp("object-add", &filter).map(drop)
            }
            (Link::Up, true) => self.qmp("object-del", &json!({ "id": SLOW_LINK })).map(drop),
            _ => Ok(()),
        }
    }

    /// Stops the machine's processors, or lets them go on.
    pub fn pause(&self, paused: bool) -> Result<(), MachineError> {
        self.qmp(if paused { "stop" } else { "cont" }, &json!({})).map(drop)
    }

    /// Ends QEMU at once, as a pulled plug does; the disks keep what they keep.
    pub fn cut_power(&mut self) -> Result<(), MachineError> {
        if let Some(id) = self.process() {
            // It may have ended by itself since.
            let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
        self.wait_until_off(KILL_DEADLINE)
    }

    pub fn wait_until_off(&mut self, deadline: Duration) -> Result<(), MachineError> {
        wait::until(
            "QEMU to end",
            deadline,
            || {
                if self.has_ended() { Ok(()) } else { Err(self.console().last_line()) }
            },
        )
        .map_err(|timeout| MachineError::StillRunning {
            name: self.name.clone(),
            source: Box::new(self.console().explain(timeout)),
        })?;
        // It may soon be the id of another process.
        self.description.process = None;
        Ok(())
    }

    /// Whether QEMU is gone with all that it held. Its arguments do not tell where it is this process's child: they are not there yet right
    /// after its start, and gone before its ports are free again.
    fn has_ended(&self) -> bool {
        let Some(id) = self.description.process else { return true };
        match waitpid(Pid::from_raw(id.cast_signed()), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => false,
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => true,
            _ => !self.is_running(),
        }
    }
}

/// The machines below `folder`, by name.
pub fn all(folder: &Path) -> io::Result<Vec<Machine>> {
    let folders = match std::fs::read_dir(folder) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut machines: Vec<Machine> = folders.flatten().filter_map(|entry| Machine::open(&entry.path()).ok()).collect();
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(machines)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Makes an empty disk that takes no room until it is written.
pub fn create_disk(path: &Path, size_mib: u64) -> Result<(), MachineError> {
    let failed = |source| MachineError::File { operation: "create", path: path.to_owned(), source };
    let file = File::create(path).map_err(failed)?;
    file.set_len(size_mib << 20).map_err(failed)
}
