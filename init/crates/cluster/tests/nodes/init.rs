//! In the place of PID 1: it takes sets of services, runs of them what a host process can be, reports all as ready, and stops them in order
//! when the node is to be switched off.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use keelson_control::{
    Applied, Condition, PACKET_MAX, Packet, Request, Response, ServiceName, ServiceSpec, ServiceState, ServiceStatus,
    SupervisorStatus, codec,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};

const API_SERVER: &str = "kube-apiserver";
/// Programs of Kubernetes that run on any host, in the order in which they are stopped.
const HOST_PROCESSES: [&str; 2] = ["kube-controller-manager", API_SERVER];

/// Below the node's root: while it is there, the node's API server does not run.
pub(super) const NO_API_SERVER: &str = "no-api-server";
/// Below the node's root: it is there once all services have ended in order.
pub(super) const STOPPED: &str = "stopped";

const STORE: &str = "127.0.0.1:2379";
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// As the services' specifications have it.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Serves the control socket below `root`, and runs the store as soon as it was told its settings.
pub(super) fn start(root: &Path, store: Option<PathBuf>, kubernetes: Option<PathBuf>) {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    let path = root.join("run/keelson/init.sock");
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).expect("a path")).expect("bound");
    rustix::net::listen(&socket, 16).expect("listening");
    let root = root.to_owned();
    let running = Arc::new(Store::default());
    if let Some(program) = store {
        let (root, running) = (root.clone(), Arc::clone(&running));
        thread::spawn(move || run_store(&program, &root, &running));
    }
    let init = Init { root, kubernetes, version: 0, running: BTreeMap::new(), store: running, stopping: false };
    let init = Arc::new(Mutex::new(init));
    let kept = Arc::clone(&init);
    thread::spawn(move || {
        loop {
            kept.lock().expect("no panic before").keep();
            thread::park_timeout(LOOK_INTERVAL);
        }
    });
    thread::spawn(move || {
        while let Ok(connection) = rustix::net::accept(&socket) {
            let init = Arc::clone(&init);
            thread::spawn(move || converse(&connection, &init));
        }
    });
}

/// Until the other end closes: subscriptions and inhibitions last, and nothing ever comes of them here.
fn converse(connection: &OwnedFd, init: &Arc<Mutex<Init>>) {
    let mut buffer = vec![0; PACKET_MAX];
    while let Ok(Some(packet)) = codec::receive(connection, &mut buffer) {
        let request: Request = packet.decode().expect("a request");
        if matches!(request, Request::PowerOff { .. }) {
            let init = Arc::clone(init);
            thread::spawn(move || shut_down(&init));
        }
        let answer = init.lock().expect("no panic before").answer(request, packet.descriptor);
        codec::send(connection, &Packet::Response(answer), None).expect("sent");
    }
}

struct Init {
    root: PathBuf,
    kubernetes: Option<PathBuf>,
    version: u64,
    running: BTreeMap<String, (ServiceSpec, Option<Child>)>,
    store: Arc<Store>,
    /// Nothing is started any more.
    stopping: bool,
}

/// The store's process, as long as there is one.
#[derive(Default)]
struct Store(Mutex<(Option<Pid>, bool)>);

impl Store {
    /// Says whether it is to run no more.
    fn set(&self, process: Option<Pid>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = process;
        state.1
    }

    /// Tells it to end, and its end is for good.
    fn tell_to_end(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = true;
        if let Some(process) = state.0 {
            kill_process(process, Signal::TERM).expect("signalled");
        }
    }

    fn has_ended(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.is_none()
    }
}

/// As PID 1 does it: who needs others ends before them.
fn shut_down(init: &Mutex<Init>) {
    let (root, store, children) = {
        let mut init = init.lock().expect("no panic before");
        init.stopping = true;
        let children: Vec<_> = HOST_PROCESSES.into_iter().filter_map(|name| Some((name, init.take(name)?))).collect();
        (init.root.clone(), Arc::clone(&init.store), children)
    };
    for (name, mut child) in children {
        kill_process(Pid::from_child(&child), Signal::TERM).expect("signalled");
        wait_for_end(name, || matches!(child.try_wait(), Ok(Some(_))));
        kill(child);
    }
    store.tell_to_end();
    wait_for_end("store", || store.has_ended());
    std::fs::write(root.join(STOPPED), "").expect("written");
}

fn wait_for_end(name: &str, mut has_ended: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !has_ended() && begun.elapsed() < STOP_MAX {
        thread::park_timeout(Duration::from_millis(20));
    }
    println!("{name} was told to end {} ms ago", begun.elapsed().as_millis());
}

impl Init {
    fn answer(&mut self, request: Request, descriptor: Option<OwnedFd>) -> Response {
        match request {
            Request::Hello { versions, .. } => Response::Hello { version: versions.max },
            Request::List {} => Response::Status(SupervisorStatus {
                set_version: self.version,
                shutting_down: None,
                services: ["store", "containerd", "proxy"]
                    .into_iter()
                    .chain(self.running.keys().map(String::as_str))
                    .map(status)
                    .collect(),
            }),
            Request::ApplySet {} => {
                let set = codec::read_set(&descriptor.expect("a set comes as a descriptor")).expect("a set");
                self.version = set.version;
                self.apply(set.services);
                Response::Applied(Applied {
                    version: self.version,
                    added: Vec::new(),
                    changed: Vec::new(),
                    removed: Vec::new(),
                })
            }
            Request::Reboot { reason } => {
                std::fs::write(self.root.join("rebooted"), reason).expect("written");
                Response::Done {}
            }
            _ => Response::Done {},
        }
    }

    fn apply(&mut self, services: Vec<ServiceSpec>) {
        let names: Vec<_> = services.iter().map(|spec| spec.name.to_string()).collect();
        let gone: Vec<_> = self.running.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.stop(&name);
        }
        for spec in services {
            let name = spec.name.to_string();
            if self.running.get(&name).is_some_and(|(present, _)| *present == spec) {
                continue;
            }
            self.stop(&name);
            self.running.insert(name, (spec, None));
        }
    }

    /// Starts what does not run and may: its files are there, and so is the store.
    fn keep(&mut self) {
        let Some(program) = self.kubernetes.clone().filter(|_| !self.stopping) else { return };
        let (root, store) = (self.root.clone(), || TcpStream::connect(STORE).is_ok());
        let services = self.running.iter_mut().filter(|(name, _)| HOST_PROCESSES.contains(&name.as_str()));
        for (name, (spec, child)) in services {
            if name == API_SERVER && root.join(NO_API_SERVER).exists() {
                child.take().into_iter().for_each(kill);
                continue;
            }
            let runs = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            let files = spec.conditions.iter().all(|condition| match condition {
                Condition::FileExists(path) => path.exists(),
                _ => true,
            });
            if !runs && files && store() {
                *child = Some(spawn(&program, &root, spec));
            }
        }
    }

    fn stop(&mut self, name: &str) {
        if let Some((_, Some(child))) = self.running.remove(name) {
            kill(child);
        }
    }

    fn take(&mut self, name: &str) -> Option<Child> {
        self.running.get_mut(name)?.1.take()
    }
}

fn kill(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(program: &Path, root: &Path, spec: &ServiceSpec) -> Child {
    let name = spec.name.as_str();
    let log = log(root, name);
    let mut command = Command::new(program);
    command.arg(name).args(&spec.arguments).env_clear().envs(&spec.environment);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    command.spawn().expect("the program starts")
}

fn log(root: &Path, name: &str) -> std::fs::File {
    let path = root.join(format!("{name}.log"));
    std::fs::File::options().create(true).append(true).open(path).expect("a log")
}

fn status(name: &str) -> ServiceStatus {
    ServiceStatus::new(ServiceName::new(name).expect("a service's name"), ServiceState::Ready)
}

fn run_store(program: &Path, root: &Path, running: &Store) {
    let config = root.join("run/keelson/store/config.json");
    while !config.exists() {
        thread::park_timeout(Duration::from_millis(20));
    }
    while !running.set(None) {
        let log = log(root, "store");
        let mut store = Command::new(program)
            .arg(format!("--config-file={}", config.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the store starts");
        running.set(Some(Pid::from_child(&store)));
        let _ = store.wait();
        if running.set(None) {
            return;
        }
        thread::park_timeout(Duration::from_secs(1));
    }
}
