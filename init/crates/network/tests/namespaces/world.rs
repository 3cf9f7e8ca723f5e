//! Two network namespaces with a cable between them: the node's, where the real program runs as it does on a node
//! (uid 64003 and its capabilities), and the network's. Everything is removed when the world is dropped.

use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keelson_config::network_state::NetworkState;
use keelson_config::{Inputs, Remembered, resolve};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// keelson-network's account.
const ACCOUNT: &str = "64003";
/// As on a node, but for `CAP_SYS_TIME`: namespaces share the host's clock, which a test must not move.
const CAPABILITIES: &str = "-all,+net_admin,+net_raw,+net_bind_service";
const DEADLINE: Duration = Duration::from_secs(30);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    pub(crate) node: String,
    pub(crate) network: String,
    pub(crate) directory: tempfile::TempDir,
    daemon: Option<Child>,
    notifications: UnixDatagram,
}

/// Whether these tests can run. Without root they say so and pass, except where root was promised.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("KEELSON_TESTS_ROOT").is_none(), "KEELSON_TESTS_ROOT promises root");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

impl World {
    /// A node whose `eth0` is wired to the network's `srv0`, 10.99.0.1/24. `words` are the node's command line.
    pub(crate) fn new(words: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kn{}-{number}", std::process::id());
        let (node, network) = (format!("{prefix}-node"), format!("{prefix}-net"));
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        for sub in ["config", "network"] {
            std::fs::create_dir_all(run.join(sub)).unwrap();
        }
        let notifications = UnixDatagram::bind(run.join("notify")).unwrap();
        notifications.set_nonblocking(true).unwrap();
        for (path, mode) in [(directory.path(), 0o755), (&run.join("network"), 0o777), (&run.join("notify"), 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let world = Self { node, network, directory, daemon: None, notifications };
        world.configure(words);
        for namespace in [&world.node, &world.network] {
            sh(&format!("ip netns add {namespace}"));
        }
        world.plug("eth0", "srv0");
        world.in_network("ip addr add 10.99.0.1/24 dev srv0");
        world
    }

    /// A cable: `link` on the node's side, down; `other` on the network's, up.
    pub(crate) fn plug(&self, link: &str, other: &str) {
        let Self { node, network, .. } = self;
        sh(&format!("ip link add {link} netns {node} type veth peer name {other} netns {network}"));
        self.in_network(&format!("ip link set {other} up"));
    }

    pub(crate) fn configure(&self, words: &str) {
        let command_line = format!("keelson.role=worker {words}").into_bytes();
        self.configure_by(&Inputs { command_line, ..Inputs::default() });
    }

    /// The same by a document, for what words cannot say. `network` is its part of that name, in YAML's flow style.
    pub(crate) fn configure_network(&self, network: &str) {
        let document = format!(
            "apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec: {{role: worker, network: {network}}}\n"
        );
        let fw_cfg = [("opt/keelson/document".to_owned(), document.into_bytes())].into();
        self.configure_by(&Inputs { fw_cfg, ..Inputs::default() });
    }

    fn configure_by(&self, inputs: &Inputs) {
        let node = resolve(inputs, &Remembered::default()).unwrap_or_else(|errors| panic!("{errors}")).node;
        std::fs::write(self.run("config/node.json"), serde_json::to_vec(&node).unwrap()).unwrap();
    }

    pub(crate) fn run(&self, file: &str) -> PathBuf {
        self.directory.path().join("run").join(file)
    }

    /// Starts the daemon as PID 1 would.
    pub(crate) fn start(&mut self) {
        // The mount point of the real path; what is mounted on it is seen by the daemon alone.
        std::fs::create_dir_all("/run/keelson").unwrap();
        let run = self.directory.path().join("run");
        let program = Path::new(env!("CARGO_BIN_EXE_keelson-network"));
        let copy = self.directory.path().join("keelson-network");
        if !copy.exists() {
            // The build's directory may be closed to the account. Copied by another process: a child that some other
            // test starts just then would inherit the open file, and a file open for writing cannot be executed.
            sh(&format!("cp {} {}", program.display(), copy.display()));
        }
        let script = format!(
            "mount --bind {run} /run/keelson && exec setpriv --reuid={ACCOUNT} --regid={ACCOUNT} --clear-groups \
             --inh-caps={CAPABILITIES} --ambient-caps={CAPABILITIES} --bounding-set={CAPABILITIES} --no-new-privs {copy}",
            run = run.display(),
            copy = copy.display(),
        );
        let output = std::fs::File::options().create(true).append(true).open(self.run("output")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.node, "sh", "-c", &script])
            .env("NOTIFY_SOCKET", "/run/keelson/notify")
            .stderr(Stdio::from(output.try_clone().unwrap()))
            .stdout(Stdio::from(output))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.daemon = Some(child);
    }

    /// SIGTERM, and the end that follows.
    pub(crate) fn stop(&mut self) {
        let mut child = self.daemon.take().expect("a running daemon");
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let mut status = None;
        self.wait("the daemon's end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", self.output());
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.run("output")).unwrap_or_default()
    }

    pub(crate) fn state(&self) -> NetworkState {
        NetworkState::read(&self.run("network/state.json")).unwrap().unwrap_or_default()
    }

    pub(crate) fn resolv_conf(&self) -> String {
        std::fs::read_to_string(self.run("network/resolv.conf")).unwrap_or_default()
    }

    /// Writes what keelson-cluster asks for, by rename as it does.
    pub(crate) fn ask(&self, file: &str, text: &str) {
        let directory = self.run("cluster");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(".new"), text).unwrap();
        std::fs::rename(directory.join(".new"), directory.join(file)).unwrap();
    }

    pub(crate) fn forget_resolvers(&self) {
        std::fs::remove_file(self.run("network/resolv.conf")).unwrap();
    }

    pub(crate) fn is_ready(&self) -> bool {
        let mut bytes = [0; 256];
        self.notifications.recv(&mut bytes).is_ok_and(|length| bytes[..length].starts_with(b"READY=1\n"))
    }

    pub(crate) fn in_node(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.node))
    }

    pub(crate) fn in_network(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.network))
    }

    pub(crate) fn has_address(&self, address: &str) -> bool {
        self.in_node("ip -o addr show").contains(&format!(" {address} "))
    }

    /// Waits until the condition holds; on timeout says what was awaited and what the daemon said.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < DEADLINE,
                "waited {DEADLINE:?} for {what}\n--- the daemon:\n{}--- state: {:?}\n--- addresses:\n{}--- routes:\n{}",
                self.output(),
                self.state(),
                self.in_node("ip -o addr show"),
                self.in_node("ip route show"),
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Holds a condition for a while: what must not happen has no event to wait for.
    pub(crate) fn hold(&self, what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while start.elapsed() < time {
            assert!(condition(), "{what} after {:?}: {}", start.elapsed(), self.output());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for namespace in [&self.node, &self.network] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs in the namespace; what it makes there stays there.
pub(crate) fn in_namespace<T: Send + 'static>(namespace: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let enter = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        make()
    };
    std::thread::spawn(enter).join().unwrap()
}

/// Runs a command of one line and returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
