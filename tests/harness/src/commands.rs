//! The verbs of `cargo vm`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::machine::Link;

mod bench;
mod cluster;
mod down;
mod image;
mod show;
mod soak;
mod up;

pub use bench::BenchCommandError;
pub use cluster::MemberError;
pub use down::DownError;
pub use image::ImageError;
pub use show::ShowError;
pub use soak::SoakError;
pub use up::{UpError, image_disk};

/// Builds Keelson and runs it in QEMU.
#[derive(Debug, Parser)]
#[command(name = "cargo vm", bin_name = "cargo vm", disable_help_subcommand = true)]
pub struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build everything, boot a machine, wait until its node is Ready and DNS answers, print the kubeconfig's path
    Up(Up),
    /// Build everything and print where it is
    Build,
    /// Build everything and make disk images of it, raw and qcow2
    Image(Image),
    /// Make keys for Secure Boot
    Keys(Keys),
    /// Shut a machine down in order
    Down(Down),
    /// Stop a machine's processors, as a hypervisor does to one that it moves
    Pause(Named),
    /// Let a paused machine go on
    Resume(Named),
    /// Pull the cable between a machine and the others, make it slow, or put it back
    Link(LinkOptions),
    /// Make one more machine, which joins the cluster of the named one
    Add(Add),
    /// Remove a machine's node from its cluster, and delete the machine
    Remove(Remove),
    /// Measure
    Bench(Bench),
    /// Run a campaign that is too long for the test suite
    Soak(soak::Soak),
    /// List the machines and what they are at
    Status,
    /// Attach to a machine's serial console; Ctrl-] leaves it
    Console(Named),
    /// Run kubectl against a machine
    #[command(disable_help_flag = true)]
    Kubectl(Passed),
    /// Run keelctl against a machine
    #[command(disable_help_flag = true)]
    Keelctl(Passed),
}

#[derive(Debug, Args)]
pub struct Named {
    /// The machine's name
    #[arg(long, default_value = "keelson")]
    name: String,
}

#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    machine: Named,
    /// Memory in MiB
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// Virtual processors: 2 by default, 1 where several control planes are emulated
    #[arg(long)]
    processors: Option<u32>,
    /// Size of a new disk in GiB; it takes no room on the host until it is used
    #[arg(long, default_value_t = 16)]
    disk: u64,
    /// OCI archives that the node imports at boot
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// More words for the kernel command line
    #[arg(long, default_value = "", value_name = "WORDS")]
    append: String,
    /// How many control planes; with three the cluster outlives the loss of one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    control_planes: u8,
    /// Workers beside the control planes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=20))]
    workers: u8,
}

impl Up {
    /// What `cargo vm up` does without options.
    fn defaults() -> Self {
        let machine = Named { name: "keelson".to_owned() };
        Self {
            machine,
            memory: 3072,
            processors: None,
            disk: 16,
            images: vec![],
            append: String::new(),
            control_planes: 1,
            workers: 0,
        }
    }
}

#[derive(Debug, Args)]
pub struct Image {
    /// Sign it with the keys in this folder, which `cargo vm keys` made
    #[arg(long, value_name = "FOLDER")]
    keys: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Keys {
    /// A folder that does not exist yet [default: secure-boot-keys in cargo's target folder]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: BenchWhat,
}

#[derive(Debug, Subcommand)]
enum BenchWhat {
    /// Seconds to each milestone of a boot, memory and processor time of each process
    Boot(bench::BenchBoot),
    /// The store beside etcd: operations a second, times, processor time, memory and bytes written
    Store(bench::BenchStore),
    /// Joins, a leader's loss and a removal, and the node's proxy beside `HAProxy`
    Cluster(bench::BenchCluster),
}

#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    machine: Named,
    /// All machines instead of one
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Pull the plug
    #[arg(long)]
    force: bool,
    /// Delete the machine with its disk afterwards
    #[arg(long)]
    delete: bool,
}

#[derive(Debug, Args)]
pub struct LinkOptions {
    #[command(flatten)]
    machine: Named,
    state: Link,
}

#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    machine: Named,
    /// What it becomes
    #[arg(long, value_enum)]
    role: Role,
    /// Size of its disk in GiB
    #[arg(long, default_value_t = 16)]
    disk: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    ControlPlane,
    Worker,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// The machine's name
    #[arg(long)]
    name: String,
    /// Without draining it: it may be off or out of reach
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Passed {
    #[command(flatten)]
    machine: Named,
    /// Handed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Bench(#[from] BenchCommandError),
    #[error(transparent)]
    Down(#[from] DownError),
    #[error(transparent)]
    Show(#[from] ShowError),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    Soak(#[from] SoakError),
}

/// Runs the verb and returns the process's exit status.
pub fn run(line: CommandLine) -> Result<u8, CommandError> {
    match line.verb {
        Verb::Up(options) => up::up(&options)?,
        Verb::Build => up::build()?,
        Verb::Image(options) => image::image(options.keys.as_deref())?,
        Verb::Keys(options) => image::keys(options.folder.as_deref())?,
        Verb::Down(options) => down::down(&options)?,
        Verb::Bench(Bench { what: BenchWhat::Boot(options) }) => bench::boot(&options)?,
        Verb::Bench(Bench { what: BenchWhat::Store(options) }) => bench::store(&options)?,
        Verb::Bench(Bench { what: BenchWhat::Cluster(options) }) => bench::cluster(&options)?,
        Verb::Soak(options) => soak::soak(&options)?,
        Verb::Pause(named) => show::pause(&named.name, true)?,
        Verb::Resume(named) => show::pause(&named.name, false)?,
        Verb::Link(LinkOptions { machine, state }) => show::set_link(&machine.name, state)?,
        Verb::Add(options) => cluster::add(&options)?,
        Verb::Remove(options) => cluster::remove(&options)?,
        Verb::Status => show::status()?,
        Verb::Console(options) => show::console(&options.name)?,
        Verb::Kubectl(passed) => return Ok(show::kubectl(&passed.machine.name, &passed.arguments)?),
        Verb::Keelctl(passed) => return Ok(show::keelctl(&passed.machine.name, &passed.arguments)?),
    }
    Ok(0)
}
