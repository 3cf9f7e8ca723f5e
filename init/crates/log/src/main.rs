//! keelson-log: see the library for what it does and why.
#![forbid(unsafe_code)]

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use keelson_control::notify::{self, Heartbeat};
use keelson_log::{
    error_chain::chain,
    files::{DIRECTORY, Directory, ROTATION},
    query::SOCKET_PATH,
    reader::{ReadError, Reader},
    rings::{LIMITS, Rings},
    serve::{self, ServeError, Server},
    service::{ANNOUNCEMENT_FD_VARIABLE, NameError, ServiceName},
    writer::Writer,
};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// The name under which keelson-log logs.
const OWN_NAME: &str = "log";

/// How long the end of the process waits for a disk. PID 1 stops logs last and has a deadline of its own.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{ANNOUNCEMENT_FD_VARIABLE} does not name the descriptor of PID 1's socket")]
    Variable,
    #[error("cannot take over descriptor {number}, PID 1's socket")]
    Descriptor { number: i32, source: rustix::io::Errno },
    #[error("cannot take signals")]
    Signals(#[source] nix::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error("cannot say that the service is ready")]
    Notify(#[source] io::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), StartError> {
    // Before any thread exists, so that all inherit the mask and the signals come by the descriptor only.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(StartError::Signals)?;
    let signals =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(StartError::Signals)?;

    let control = inherited_socket()?;
    let own = ServiceName::try_from(OWN_NAME.to_owned())?;
    let rings = Arc::new(Rings::new(LIMITS));
    // The table is empty, so there is room.
    let _ = rings.register(&own);
    let reader = Reader::new(&rings, own.clone(), control, &signals)?;
    let mut reader = reader.with_heartbeat(Heartbeat::from_environment());

    let flushed = start_writer(&rings, own)?;
    start_server(&rings)?;
    notify::ready().map_err(StartError::Notify)?;

    let outcome = reader.run();
    rings.close();
    // Whether it ended or the deadline passed, there is nothing more to be done.
    let _ = flushed.recv_timeout(FLUSH_DEADLINE);
    outcome.map_err(StartError::Read)
}

/// The thread that writes; what is received from the channel is that it has ended.
fn start_writer(rings: &Arc<Rings>, own: ServiceName) -> Result<mpsc::Receiver<()>, StartError> {
    let (ended, end) = mpsc::channel();
    let rings = Arc::clone(rings);
    let write = move || {
        Writer::new(&rings, Directory::new(DIRECTORY, ROTATION), own).run();
        // Nobody waits any more if the deadline has passed.
        let _ = ended.send(());
    };
    thread::Builder::new().name("writer".to_owned()).spawn(write).map_err(StartError::Thread)?;
    Ok(end)
}

fn start_server(rings: &Arc<Rings>) -> Result<(), StartError> {
    let listener = serve::listen(Path::new(SOCKET_PATH))?;
    let server = Server { rings: Arc::clone(rings), directory: DIRECTORY.into(), rotation: ROTATION };
    let serve = move || server.run(&listener);
    thread::Builder::new().name("server".to_owned()).spawn(serve).map_err(StartError::Thread)?;
    Ok(())
}

/// The socket that PID 1 left open for this process, as a descriptor that this process owns.
///
/// `pidfd_getfd(2)` on oneself turns a number into an owned descriptor without unsafe code: the kernel checks that it is
/// open, and permits it to a process for itself. The original stays open beside the duplicate, which does no harm.
fn inherited_socket() -> Result<OwnedFd, StartError> {
    let number: i32 = std::env::var(ANNOUNCEMENT_FD_VARIABLE)
        .ok()
        .and_then(|number| number.parse().ok())
        .ok_or(StartError::Variable)?;
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .and_then(|own| rustix::process::pidfd_getfd(&own, number, PidfdGetfdFlags::empty()))
        .map_err(|source| StartError::Descriptor { number, source })
}

#[expect(clippy::print_stderr, reason = "it could not start, so its own ring is no place to say so")]
fn report(error: &StartError) {
    eprintln!("keelson-log: {}", chain(error));
}
