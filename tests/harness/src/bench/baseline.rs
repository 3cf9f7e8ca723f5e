//! The baseline: the same kernel, root and Kubernetes, with etcd, started by a script that does nothing else.
//!
//! Files and flags are those of a node of ours (`tests/baseline`); the script is `tests/baseline/start`. It runs as root without
//! cgroups, logs, supervision, an operator's API or cluster DNS, so it is what Keelson's own work is measured against.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

use super::{BenchError, milestones, qemu_cpu};
use crate::build::Image;
use crate::build::archive::Cpio;
use crate::kubectl::Kubectl;
use crate::machine::{Machine, create_disk};
use crate::project::Project;
use crate::qemu::{Disk, Hardware, Ports};
use crate::qemu::{Network, Speed};

/// QEMU's user network gives the first machine this address.
const ADDRESS: &str = "10.0.2.15";
const NAME: &str = "baseline";

/// Seconds from QEMU's start, and what it cost.
#[derive(Debug, Serialize)]
pub struct BaselineRun {
    pub kernel: f64,
    pub script: f64,
    pub store: f64,
    pub api_server: f64,
    pub ready: f64,
    /// Processor seconds that QEMU used until Ready.
    pub qemu_cpu_seconds: f64,
}

/// What every run of the baseline boots from.
#[derive(Debug)]
pub struct Baseline {
    kernel: PathBuf,
    initramfs: PathBuf,
    kubectl: PathBuf,
    generator: PathBuf,
}

impl Baseline {
    /// Makes the initramfs in `folder`.
    pub fn prepare(project: &Project, image: &Image, folder: &Path) -> Result<Self, BenchError> {
        let generator = project.baseline().map_err(|error| BenchError::Baseline { output: error.to_string() })?;
        let initramfs = folder.join("baseline-initramfs");
        let scripts = project.checkout().join("tests/baseline");
        let files = [
            ("root.erofs", 0o400, image.root.clone()),
            ("busybox", 0o755, PathBuf::from("/bin/busybox")),
            ("etcd", 0o755, image.etcd.clone()),
            ("workload", 0o755, image.workload_program.clone()),
            ("start", 0o644, scripts.join("start")),
            ("init", 0o755, scripts.join("init")),
        ];
        pack(&initramfs, &files).map_err(|source| file_error("make", &initramfs, source))?;
        Ok(Self { kernel: image.kernel.clone(), initramfs, kubectl: image.kubectl.clone(), generator })
    }

    /// Boots a new machine in `folder`, which is empty, to Ready.
    pub fn measure(&self, folder: &Path, like: &Hardware, speed: Speed) -> Result<BaselineRun, BenchError> {
        let output = Command::new(&self.generator)
            .arg(folder)
            .args([ADDRESS, NAME])
            .output()
            .map_err(|source| file_error("run", &self.generator, source))?;
        if !output.status.success() {
            return Err(BenchError::Baseline { output: String::from_utf8_lossy(&output.stderr).into_owned() });
        }
        let (disk, settings) = (folder.join("disk.raw"), folder.join("settings.tar"));
        create_disk(&disk, 16 << 10)?;
        archive(&folder.join("tree"), &settings).map_err(|source| file_error("make", &settings, source))?;
        let ports = Ports::free().map_err(crate::machine::MachineError::from)?;
        let hardware = Hardware {
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            // The kernel hands what it does not know itself to the script as its environment.
            command_line: format!("baseline_name={NAME} baseline_address={ADDRESS}"),
            smbios: vec![],
            disks: vec![Disk::from_file(&disk, "baseline"), Disk::read_only(&settings, "settings")],
            network: Network::User(ports),
            ..like.clone()
        };
        let kubectl = Kubectl { program: self.kubectl.clone(), kubeconfig: kubeconfig(folder, ports)? };
        let mut machine = Machine::create(folder, hardware, speed)?;
        let run = observe(&mut machine, &kubectl);
        machine.cut_power()?;
        run
    }
}

fn observe(machine: &mut Machine, kubectl: &Kubectl) -> Result<BaselineRun, BenchError> {
    let started = Instant::now();
    machine.start()?;
    let console = machine.console();
    let seen = |milestone, text: &'static str| {
        milestones::line_seen(&console, milestone, started, &|line: &str| line.contains(text))
    };
    let kernel = seen("kernel", "Linux version")?;
    let script = seen("script", "baseline: the script runs")?;
    let store = seen("store", "baseline: etcd serves")?;
    let (api_server, ready) = milestones::observe_api(kubectl, started)?;
    let qemu_cpu_seconds = qemu_cpu(machine).as_secs_f64();
    Ok(BaselineRun { kernel, script, store, api_server, ready, qemu_cpu_seconds })
}

/// The generator's kubeconfig with the forwarded port.
fn kubeconfig(folder: &Path, ports: Ports) -> Result<PathBuf, BenchError> {
    let path = folder.join("kubeconfig");
    let text = std::fs::read_to_string(&path).map_err(|source| file_error("read", &path, source))?;
    let text = text.replace("https://127.0.0.1:6443", &format!("https://127.0.0.1:{}", ports.kubernetes));
    std::fs::write(&path, text).map_err(|source| file_error("write", &path, source))?;
    Ok(path)
}

fn archive(tree: &Path, file: &Path) -> io::Result<()> {
    let mut archive = tar::Builder::new(File::create(file)?);
    archive.append_dir_all("", tree)?;
    archive.into_inner()?.sync_all()
}

fn pack(initramfs: &Path, files: &[(&str, u32, PathBuf)]) -> io::Result<()> {
    let mut archive = Cpio::new(io::BufWriter::new(File::create(initramfs)?));
    archive.folder("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    for (name, mode, path) in files {
        let file = File::open(path)?;
        archive.file(name, *mode, file.metadata()?.len(), file)?;
    }
    archive.finish().map(drop)
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> BenchError {
    BenchError::File { operation, path: path.to_owned(), source }
}
