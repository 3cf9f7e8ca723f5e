//! QEMU's command line for one machine, and the choice of its accelerator.
//!
//! A machine boots the files that users get, directly (`-kernel`, `-initrd`); what the node is told travels on the kernel
//! command line and in SMBIOS strings, as it would from a hypervisor's template.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::firmware::Firmware;
use crate::wait;

/// With KVM PID 1 speaks within a few seconds; a guest that hangs never does.
const KVM_TRIAL_DEADLINE: Duration = Duration::from_secs(15);

/// What PID 1 says first: by then the guest has run on both processors and in user space.
const FIRST_WORDS: &[u8] = b"root          Keelson";

/// Emulated, a kernel without a root panics within seconds on an idle machine and half a minute on a busy one.
const TCG_TRIAL_DEADLINE: Duration = Duration::from_mins(3);

/// How long the trial boot takes under emulation on the two-core machine on which the deadlines were chosen.
const TRIAL_REFERENCE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error("cannot {operation} {path}", path = path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot start qemu-system-x86_64")]
    Start(#[source] std::io::Error),
    #[error("no accelerator works: a kernel booted for a trial printed nothing of its end in {} s", TCG_TRIAL_DEADLINE.as_secs())]
    NoAccelerator,
    #[error("cannot find a free port of 127.0.0.1")]
    Port(#[source] std::io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    Kvm,
    /// QEMU's own translation, with a thread for each virtual processor.
    Tcg,
}

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// The same for a guest that is to believe its hardware clock: KVM's own would tell it the host's time.
    fn arguments_by_hardware_clock(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host,kvmclock=off"],
            Self::Tcg => self.arguments(),
        }
    }
}

/// The accelerator that works here, and by how much slower this machine is now than the one deadlines were chosen on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    pub accelerator: Accelerator,
    pub factor: f64,
}

impl Speed {
    /// Uses KVM if a trial shows that it works: on some hosts /dev/kvm opens, and guests then hang, early or late.
    pub fn measure(kernel: &Path, initramfs: &Path, scratch: &Path) -> Result<Self, QemuError> {
        if File::options().read(true).write(true).open("/dev/kvm").is_ok() && kvm_works(kernel, initramfs, scratch)? {
            return Ok(Self { accelerator: Accelerator::Kvm, factor: 1.0 });
        }
        let took = panic_after(kernel, scratch)?.ok_or(QemuError::NoAccelerator)?;
        let factor = (took.as_secs_f64() / TRIAL_REFERENCE.as_secs_f64()).clamp(1.0, 5.0);
        Ok(Self { accelerator: Accelerator::Tcg, factor })
    }

    /// A deadline that was chosen for the reference machine, for this one.
    pub fn scale(&self, deadline: Duration) -> Duration {
        deadline.mul_f64(self.factor)
    }
}

/// Boots the initramfs with two processors up to PID 1's first words.
fn kvm_works(kernel: &Path, initramfs: &Path, scratch: &Path) -> Result<bool, QemuError> {
    let log = scratch.join("trial-kvm.log");
    let mut command = trial(Accelerator::Kvm, kernel, &log);
    command.args(["-smp", "2", "-m", "1024", "-initrd"]).arg(initramfs);
    let mut child = command.spawn().map_err(QemuError::Start)?;
    let spoke = wait::until("PID 1's first words", KVM_TRIAL_DEADLINE, || {
        if std::fs::read(&log).is_ok_and(|text| contains(&text, FIRST_WORDS)) {
            return Ok(true);
        }
        match child.try_wait() {
            Ok(Some(_)) => Ok(false),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    end(&mut child);
    Ok(spoke.unwrap_or(false))
}

/// How long an emulated kernel without a root took to its panic, if it got there.
fn panic_after(kernel: &Path, scratch: &Path) -> Result<Option<Duration>, QemuError> {
    let log = scratch.join("trial.log");
    let started = Instant::now();
    let mut child = trial(Accelerator::Tcg, kernel, &log).args(["-m", "256"]).spawn().map_err(QemuError::Start)?;
    // `panic=-1` with `-no-reboot` makes the kernel's panic QEMU's end.
    let ended = wait::until("the trial kernel's panic", TCG_TRIAL_DEADLINE, || match child.try_wait() {
        Ok(Some(_)) => Ok(started.elapsed()),
        Ok(None) => Err("still running".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    end(&mut child);
    let panicked = std::fs::read(&log).is_ok_and(|text| contains(&text, b"Kernel panic"));
    Ok(ended.ok().filter(|_| panicked))
}

fn trial(accelerator: Accelerator, kernel: &Path, log: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-M", "q35"])
        .args(accelerator.arguments())
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
        .args(["-serial", &format!("file:{}", log.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Whatever became of the trial, its QEMU is gone afterwards.
fn end(child: &mut Child) {
    // Both fail only if it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The hardware of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    pub processors: u32,
    pub memory_mib: u32,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// What the kernel command line says after the console's part.
    pub command_line: String,
    /// SMBIOS type 11 strings.
    pub smbios: Vec<String>,
    /// `fw_cfg` items: name and file.
    pub fw_cfg: Vec<(String, PathBuf)>,
    /// Disks in order, each as QEMU's `file=` has it.
    pub disks: Vec<Disk>,
    pub network: Network,
    #[serde(default)]
    pub card: Card,
    /// Boots from the first disk by UEFI, instead of the kernel and the initramfs.
    #[serde(default)]
    pub firmware: Option<Firmware>,
    /// The hardware clock goes before the host's by so many days. A node that has run so has the date on its disk, and never
    /// believes an earlier one.
    #[serde(default)]
    pub days_ahead: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub file: String,
    pub read_only: bool,
    /// The serial number that the guest sees.
    pub serial: String,
    #[serde(default)]
    pub bus: Bus,
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    #[default]
    Virtio,
    Nvme,
    /// SATA, on the AHCI controller that the machine type has.
    Ahci,
    /// The paravirtual SCSI controller of vSphere.
    Pvscsi,
}

impl Bus {
    /// `-device` options for the disk of number `index`: a controller, if the bus needs one, and the disk.
    fn devices(self, index: usize, serial: &str) -> Vec<String> {
        match self {
            Self::Virtio => vec![format!("virtio-blk-pci,drive=disk{index},serial={serial}")],
            Self::Nvme => vec![format!("nvme,drive=disk{index},serial={serial}")],
            Self::Ahci => vec![format!("ide-hd,drive=disk{index},serial={serial},bus=ide.{index}")],
            Self::Pvscsi => vec![
                format!("pvscsi,id=scsi{index}"),
                format!("scsi-hd,drive=disk{index},serial={serial},bus=scsi{index}.0"),
            ],
        }
    }
}

/// A network card, by QEMU's name for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Card {
    #[default]
    Virtio,
    E1000e,
    /// Not in QEMU 7.2, Debian 12's own.
    Igb,
    Vmxnet3,
}

impl Card {
    fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000e => "e1000e",
            Self::Igb => "igb",
            Self::Vmxnet3 => "vmxnet3",
        }
    }

    /// Whether this host's QEMU has it.
    pub fn is_offered(self) -> Result<bool, QemuError> {
        let help = Command::new("qemu-system-x86_64").args(["-device", "help"]).output().map_err(QemuError::Start)?;
        Ok(contains(&help.stdout, format!("name \"{}\"", self.device()).as_bytes()))
    }
}

impl Disk {
    pub fn from_file(path: &Path, serial: &str) -> Self {
        Self { file: path.display().to_string(), read_only: false, serial: serial.to_owned(), bus: Bus::default() }
    }

    pub fn read_only(path: &Path, serial: &str) -> Self {
        Self { read_only: true, ..Self::from_file(path, serial) }
    }
}

/// The machine's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// QEMU's user network with its DHCP server, and ports of 127.0.0.1 that lead into the machine.
    User(Ports),
    /// The same as the first link, and as the second one a segment that machines share.
    Segment { ports: Ports, segment: Segment },
    /// A link on which nobody answers.
    Silent,
}

/// A machine's place on an Ethernet segment among machines of this host: frames travel as multicast on the loopback device,
/// so nobody needs to be root. There is no DHCP server on it: who is there has a static address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The UDP port that tells segments apart.
    pub port: u16,
    /// The machine's number on it, from 1 to 250.
    pub number: u8,
}

/// The group of all segments: of the range for such purposes (RFC 2365, section 6.1).
const SEGMENT_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 64, 1);
/// The segment's end in QEMU.
pub const SEGMENT: &str = "segment";
/// The device that QMP's `set_link` takes up and down.
pub const SEGMENT_LINK: &str = "segment-link";

impl Segment {
    /// A segment that nobody uses now.
    pub fn free() -> Result<u16, QemuError> {
        Ports::free().map(|ports| ports.cluster)
    }

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 75, 0, self.number)
    }

    /// The configuration words: the user network by DHCP, the segment by a static address.
    pub fn words(self) -> String {
        format!("ip=eth0:dhcp ip={}:::255.255.255.0::eth1:none", self.address())
    }

    /// Of all machines that are on one.
    pub const NETWORK: &str = "10.75.0.0/24";

    fn mac(self, link: u8) -> String {
        format!("52:54:00:4b:{link:02x}:{:02x}", self.number)
    }
}

/// Ports of 127.0.0.1 on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Leads to 6443, the API server.
    pub kubernetes: u16,
    /// Leads to 6400, keelson-cluster.
    pub cluster: u16,
}

impl Ports {
    /// Two ports that are free now, and that a machine finds free again when it is turned on the next time.
    pub fn free() -> Result<Self, QemuError> {
        let port = || keelson_ports::free_port().map_err(QemuError::Port);
        Ok(Self { kubernetes: port()?, cluster: port()? })
    }
}

/// Where a running machine leaves its files.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }
    pub fn console_socket(&self) -> PathBuf {
        self.0.join("console.sock")
    }
    pub fn qmp_socket(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }
    pub fn qemu_log(&self) -> PathBuf {
        self.0.join("qemu.log")
    }
}

/// Starts the machine; it runs on when this process ends. Returns QEMU's process id.
pub fn start(hardware: &Hardware, accelerator: Accelerator, folder: &Folder) -> Result<u32, QemuError> {
    let path = folder.qemu_log();
    let log =
        File::create(&path).map_err(|source| QemuError::File { operation: "create", path: path.clone(), source })?;
    let error_log = log.try_clone().map_err(|source| QemuError::File { operation: "open", path, source })?;
    let child = Command::new("qemu-system-x86_64")
        .args(arguments(hardware, accelerator, folder))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error_log)
        .spawn()
        .map_err(QemuError::Start)?;
    Ok(child.id())
}

fn arguments(hardware: &Hardware, accelerator: Accelerator, folder: &Folder) -> Vec<String> {
    let mut words: Vec<String> = ["-nodefaults", "-display", "none"].map(str::to_owned).into();
    let processor = match hardware.days_ahead {
        None => accelerator.arguments(),
        Some(_) => accelerator.arguments_by_hardware_clock(),
    };
    words.extend(processor.map(str::to_owned));
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("-smp", hardware.processors.to_string());
    option("-m", hardware.memory_mib.to_string());
    match &hardware.firmware {
        None => {
            option("-M", "q35".to_owned());
            option("-kernel", hardware.kernel.display().to_string());
            option("-initrd", hardware.initramfs.display().to_string());
            option("-append", format!("console=ttyS0 loglevel=6 panic=10 {}", hardware.command_line));
        }
        Some(firmware) => firmware.options().into_iter().for_each(|(name, value)| option(name, value)),
    }
    if let Some(days) = hardware.days_ahead {
        option("-rtc", format!("base={}", rtc_date(OffsetDateTime::now_utc() + time::Duration::days(days.into()))));
    }
    for value in &hardware.smbios {
        option("-smbios", format!("type=11,value={}", comma_doubled(value)));
    }
    for (name, file) in &hardware.fw_cfg {
        option("-fw_cfg", format!("name={name},file={}", comma_doubled(&file.display().to_string())));
    }
    option("-device", "virtio-rng-pci".to_owned());
    option("-device", "i6300esb".to_owned());
    option("-action", "watchdog=reset".to_owned());
    for (index, disk) in hardware.disks.iter().enumerate() {
        let read_only = if disk.read_only { "on" } else { "off" };
        let file = comma_doubled(&disk.file);
        option("-drive", format!("if=none,id=disk{index},format=raw,readonly={read_only},file={file}"));
        for device in disk.bus.devices(index, &disk.serial) {
            option("-device", device);
        }
    }
    let user = |ports: Ports| {
        let Ports { kubernetes, cluster } = ports;
        format!("user,id=net,hostfwd=tcp:127.0.0.1:{kubernetes}-:6443,hostfwd=tcp:127.0.0.1:{cluster}-:6400")
    };
    let (network, mac) = match hardware.network {
        Network::User(ports) => (user(ports), String::new()),
        Network::Segment { ports, segment } => (user(ports), format!(",mac={}", segment.mac(0))),
        Network::Silent => ("hubport,id=net,hubid=0".to_owned(), String::new()),
    };
    option("-netdev", network);
    option("-device", format!("{},netdev=net{mac}", hardware.card.device()));
    if let Network::Segment { segment, .. } = hardware.network {
        let group = SocketAddr::from((SEGMENT_GROUP, segment.port));
        option("-netdev", format!("socket,id={SEGMENT},mcast={group},localaddr=127.0.0.1"));
        option("-device", format!("virtio-net-pci,id={SEGMENT_LINK},netdev={SEGMENT},mac={}", segment.mac(1)));
    }
    // The log file has all that the console printed, whether or not somebody is attached to the socket.
    let (socket, log) = (folder.console_socket(), folder.console_log());
    option(
        "-chardev",
        format!("socket,id=console,server=on,wait=off,path={},logfile={}", socket.display(), log.display()),
    );
    option("-serial", "chardev:console".to_owned());
    option("-qmp", format!("unix:{},server=on,wait=off", folder.qmp_socket().display()));
    words
}

/// A date as `-rtc base=` takes it, in UTC.
fn rtc_date(date: OffsetDateTime) -> String {
    let (year, month, day) = date.to_calendar_date();
    let (hour, minute, second) = date.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
}

/// QEMU ends a value at a comma, and takes two for one.
pub(crate) fn comma_doubled(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smbios_strings_keep_their_commas() {
        assert_eq!(comma_doubled("a=1,b=2"), "a=1,,b=2");
    }

    fn hardware() -> Hardware {
        Hardware {
            processors: 2,
            memory_mib: 2048,
            kernel: "bzImage".into(),
            initramfs: "initramfs".into(),
            command_line: "keelson.role=control-plane".into(),
            smbios: vec![],
            fw_cfg: vec![],
            disks: vec![],
            network: Network::User(Ports { kubernetes: 1000, cluster: 1001 }),
            card: Card::default(),
            firmware: None,
            days_ahead: None,
        }
    }

    #[test]
    fn forwards_both_ports_to_loopback_only() {
        let words = arguments(&hardware(), Accelerator::Tcg, &Folder("folder".into()));
        let network = words.iter().find(|word| word.starts_with("user,")).unwrap();
        assert_eq!(network, "user,id=net,hostfwd=tcp:127.0.0.1:1000-:6443,hostfwd=tcp:127.0.0.1:1001-:6400");
        assert!(words.contains(&"console=ttyS0 loglevel=6 panic=10 keelson.role=control-plane".to_owned()));
    }
    #[test]
    fn a_clock_that_is_ahead_is_the_hardware_clock() {
        let date = OffsetDateTime::from_unix_timestamp(1_798_761_845).unwrap();
        assert_eq!(rtc_date(date), "2027-01-01T00:04:05");
        let ahead = Hardware { days_ahead: Some(35), ..hardware() };
        let words = arguments(&ahead, Accelerator::Kvm, &Folder("folder".into()));
        assert!(words.contains(&"host,kvmclock=off".to_owned()));
        let at = words.iter().position(|word| word == "-rtc").unwrap();
        assert!(words[at + 1].starts_with("base=2"), "{}", words[at + 1]);
        let words = arguments(&hardware(), Accelerator::Kvm, &Folder("folder".into()));
        assert!(!words.contains(&"-rtc".to_owned()) && words.contains(&"host".to_owned()));
    }
}
