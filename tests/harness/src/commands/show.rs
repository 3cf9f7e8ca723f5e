//! The verbs that look at machines: `status`, `console`, `kubectl`, `keelctl`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::termios::{self, SetArg, Termios};

use crate::machine::{self, Link, Machine, MachineError};
use crate::project::{Project, ProjectError};

/// Ctrl-], as telnet has it.
const LEAVE: u8 = 0x1d;

#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot read the machines' folder")]
    List(#[source] io::Error),
    #[error("machine {name:?} is not running; its last console is in {log}", log = log.display())]
    Off { name: String, log: PathBuf },
    #[error("machine {name:?} shares no link with others")]
    Alone { name: String },
    #[error("the console's connection failed")]
    Console(#[source] io::Error),
    #[error("machine {name:?} has no {missing} yet; `cargo vm up` makes it")]
    NotUp { name: String, missing: &'static str },
    #[error("kubectl is not built yet; `cargo vm build` builds it")]
    NotBuilt,
    #[error("cannot run {program}", program = program.display())]
    Run { program: PathBuf, source: io::Error },
}

#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn status() -> Result<(), ShowError> {
    println!("{:<20} {:<9} {:<24} {:<24} CONSOLE", "NAME", "STATE", "KUBERNETES", "CLUSTER MANAGER");
    for machine in machine::all(&Project::of_this_build().machines()).map_err(ShowError::List)? {
        let state = if machine.is_running() { "running" } else { "off" };
        let [kubernetes, cluster] = machine.ports().map_or_else(Default::default, |ports| {
            [ports.kubernetes, ports.cluster].map(|port| format!("https://127.0.0.1:{port}"))
        });
        println!("{:<20} {state:<9} {kubernetes:<24} {cluster:<24} {}", machine.name(), machine.console().last_line());
    }
    Ok(())
}

pub(super) fn pause(name: &str, paused: bool) -> Result<(), ShowError> {
    Ok(running(name)?.pause(paused)?)
}

pub(super) fn set_link(name: &str, link: Link) -> Result<(), ShowError> {
    let machine = running(name)?;
    if machine.segment().is_none() {
        return Err(ShowError::Alone { name: name.to_owned() });
    }
    Ok(machine.set_segment_link(link)?)
}

fn running(name: &str) -> Result<Machine, ShowError> {
    let machine = Machine::open(&Project::of_this_build().machine_folder(name)?)?;
    if machine.is_running() {
        return Ok(machine);
    }
    let log = machine.folder().join("console.log");
    Err(ShowError::Off { name: name.to_owned(), log })
}

/// Copies bytes both ways until the machine ends or the person leaves.
pub(super) fn console(name: &str) -> Result<(), ShowError> {
    let machine = running(name)?;
    let stream = UnixStream::connect(machine.console_socket()).map_err(ShowError::Console)?;
    let mut output = io::stdout();
    let _ = writeln!(output, "{}\n(Ctrl-] leaves the console)", machine.console().tail());
    let _raw = RawTerminal::enter();
    let keyboard = stream.try_clone().map_err(ShowError::Console)?;
    std::thread::spawn(move || send_keys(keyboard));
    let mut stream = stream;
    io::copy(&mut stream, &mut output).map_err(ShowError::Console)?;
    Ok(())
}

fn send_keys(mut stream: UnixStream) {
    let mut byte = [0];
    while let Ok(1) = io::stdin().read(&mut byte) {
        if byte == [LEAVE] || stream.write_all(&byte).is_err() {
            break;
        }
    }
    // The copy of the other direction ends with this.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// The terminal hands on each key as it is pressed, until this is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// None where standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

pub(super) fn kubectl(name: &str, arguments: &[String]) -> Result<u8, ShowError> {
    let project = Project::of_this_build();
    let machine = Machine::open(&project.machine_folder(name)?)?;
    let kubeconfig = machine.folder().join("kubeconfig");
    if !kubeconfig.exists() {
        return Err(ShowError::NotUp { name: name.to_owned(), missing: "kubeconfig" });
    }
    let program = project.built_kubectl().ok_or(ShowError::NotBuilt)?;
    run(Command::new(&program).env("KUBECONFIG", kubeconfig).args(arguments), program)
}

pub(super) fn keelctl(name: &str, arguments: &[String]) -> Result<u8, ShowError> {
    let project = Project::of_this_build();
    let machine = Machine::open(&project.machine_folder(name)?)?;
    let configuration = machine.folder().join("keelctl.yaml");
    if !configuration.exists() {
        return Err(ShowError::NotUp { name: name.to_owned(), missing: "keelctl configuration" });
    }
    let program = project.keelctl()?;
    run(Command::new(&program).arg("--config").arg(configuration).args(arguments), program)
}

/// The program's exit status becomes ours; one that a signal ended is a failure.
fn run(command: &mut Command, program: PathBuf) -> Result<u8, ShowError> {
    let status = command.status().map_err(|source| ShowError::Run { program, source })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
