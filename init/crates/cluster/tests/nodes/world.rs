//! Namespaces on a bridge, one for each node, and what a test does with a node. Everything goes with the value.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use keelson_api::paths;
use keelson_config::network_state::{LinkState, NetworkState};
use keelson_config::{Inputs, Remembered};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{init, process, stand_in};

/// An API server on a machine that builds at the same time.
pub(super) const DEADLINE: Duration = Duration::from_mins(5);

/// What a node says of itself that is a member and reaches an API server.
pub(super) const UP: [&str; 3] = ["Member", "ServicesApplied", "ApiServerReady"];

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(super) struct World {
    name: String,
    directory: tempfile::TempDir,
    store: PathBuf,
    kubernetes: Option<PathBuf>,
    nodes: Vec<String>,
}

/// `None`, said aloud, where these tests cannot run.
pub(super) fn world() -> Option<World> {
    let kubernetes = std::env::var_os(process::KUBERNETES).filter(|program| !program.is_empty());
    if kubernetes.is_none() {
        println!("{} is not set: nothing to test with, this test ends here", process::KUBERNETES);
        return None;
    }
    made(kubernetes.map(PathBuf::from))
}

/// Nodes on which Kubernetes' own programs do not run.
pub(super) fn world_without_kubernetes() -> Option<World> {
    made(None)
}

fn made(kubernetes: Option<PathBuf>) -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        println!("network namespaces need root: nothing to test with, this test ends here");
        return None;
    }
    let store = built_store();
    let name = format!("kc{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let world = World {
        directory: tempfile::Builder::new().prefix("kc").tempdir_in("/tmp").unwrap(),
        store,
        kubernetes,
        nodes: Vec::new(),
        name,
    };
    sh(&format!("ip netns add {}", world.name));
    sh(&format!("ip -n {} link add br0 type bridge", world.name));
    sh(&format!("ip -n {} link set br0 up", world.name));
    Some(world)
}

/// The store's program, which belongs to another package: it is beside this test's folder once it is built. As a part of the workspace's tests
/// it is there already if those are what runs.
fn built_store() -> PathBuf {
    let arguments = ["test", "--quiet", "--workspace", "--test", "process", "--no-run"];
    let build = Command::new(env!("CARGO")).args(arguments).output().unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join("keelson-store")
}

fn sh(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As keelson-network does, of a node at 10.99.0.`last`.
fn write_network_state(root: &Path, last: u8) {
    write_addresses(root, &[IpNet::new(IpAddr::from([10, 99, 0, last]), 24).unwrap()]);
}

fn write_addresses(root: &Path, addresses: &[IpNet]) {
    let link = LinkState {
        name: "eth0".to_owned(),
        index: 2,
        mac: None,
        mtu: 1500,
        carrier: true,
        addresses: addresses.to_vec(),
        gateway: None,
        nameservers: Vec::new(),
        search: Vec::new(),
        ntp_servers: Vec::new(),
        lease: None,
    };
    let node_addresses = addresses.iter().map(IpNet::addr).collect();
    let network = NetworkState { node_addresses, links: vec![link], ..NetworkState::default() };
    let (new, file) = (root.join("run/keelson/network/.new"), root.join("run/keelson/network/state.json"));
    std::fs::write(&new, serde_json::to_vec(&network).unwrap()).unwrap();
    std::fs::rename(new, file).unwrap();
}

impl World {
    /// A node that is switched on: 10.99.0.`last`.
    pub(super) fn node(&mut self, name: &str, last: u8, words: &str, token: Option<&str>) -> Node {
        let mut node = self.node_off(name, last, words, token);
        node.switch_on();
        node
    }

    pub(super) fn node_off(&mut self, name: &str, last: u8, words: &str, token: Option<&str>) -> Node {
        let namespace = format!("{}-{name}", self.name);
        let port = format!("p{last}");
        sh(&format!("ip netns add {namespace}"));
        self.nodes.push(namespace.clone());
        sh(&format!("ip link add eth0 netns {namespace} type veth peer name {port} netns {}", self.name));
        sh(&format!("ip -n {} link set {port} master br0 up", self.name));
        sh(&format!("ip -n {namespace} addr add 10.99.0.{last}/24 dev eth0"));
        for link in ["eth0", "lo"] {
            sh(&format!("ip -n {namespace} link set {link} up"));
        }
        let root = self.directory.path().join(name);
        for directory in ["run/keelson/config", "run/keelson/cluster", "run/keelson/log", "run/keelson/proxy"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        for directory in ["run/keelson/network", "run/dbus", "state", "var/lib/keelson-proxy", "run/keelson/init"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        let words = format!("keelson.name={name} {words}");
        let inputs = Inputs { command_line: words.into_bytes(), ..Inputs::default() };
        let config = keelson_config::resolve(&inputs, &Remembered::default()).unwrap().node;
        std::fs::write(root.join("run/keelson/config/node.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let floor = time::OffsetDateTime::now_utc().unix_timestamp() - 86_400;
        let floor_file = root.join(keelson_config::CLOCK_FLOOR_PATH.trim_start_matches('/'));
        std::fs::write(floor_file, format!("{floor}\n")).unwrap();
        write_network_state(&root, last);
        let node = Node {
            name: name.to_owned(),
            root,
            namespace,
            store: self.store.clone(),
            kubernetes: self.kubernetes.clone(),
            process: None,
        };
        if let Some(token) = token {
            node.give_token(token);
        }
        node
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in self.nodes.iter().chain([&self.name]) {
            // What a node started lives in its namespace, and nothing else does.
            if let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() {
                for pid in String::from_utf8_lossy(&output.stdout).lines() {
                    if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
            }
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) root: PathBuf,
    namespace: String,
    store: PathBuf,
    kubernetes: Option<PathBuf>,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["node.log", "store.log", "kube-apiserver.log"] {
                let text = std::fs::read_to_string(self.root.join(log)).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(25).collect();
                println!("{} {log}, last line first:\n{}\n", self.name, tail.join("\n"));
            }
        }
        self.switch_off();
    }
}

impl Node {
    /// A process of this test's program in the node's namespace.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "process::a_process_of_a_node", "--nocapture"])
            .env(process::ROOT, &self.root)
            .env(process::STORE, &self.store)
            .stdin(Stdio::null());
        match &self.kubernetes {
            Some(program) => command.env(process::KUBERNETES, program),
            None => command.env_remove(process::KUBERNETES),
        };
        command
    }

    pub(super) fn switch_on(&mut self) {
        let command = self.command();
        self.start(command);
    }

    /// The power goes after so many changes of the disk.
    pub(super) fn switch_on_until(&mut self, changes: usize) {
        let mut command = self.command();
        command.env(process::CUT, changes.to_string());
        self.start(command);
    }

    /// Whether the node's process has ended by itself.
    pub(super) fn is_off(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// What is below `/run` is new at each boot.
    fn start(&mut self, mut command: Command) {
        let of_cluster = ["apiserver-ready", "any-apiserver-ready", "virtual-address.json"];
        let of_cluster = of_cluster.map(|file| format!("run/keelson/cluster/{file}"));
        let others = ["store/config.json", "store/hints.json", "init.sock"].map(|file| format!("run/keelson/{file}"));
        for file in of_cluster.into_iter().chain(others).chain([init::STOPPED.to_owned()]) {
            let _ = std::fs::remove_file(self.root.join(file));
        }
        let log = std::fs::File::create(self.root.join("node.log")).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.process = Some(child);
    }

    /// The power goes: everything in the namespace ends at once.
    pub(super) fn switch_off(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if let Ok(output) = Command::new("ip").args(["netns", "pids", &self.namespace]).output() {
            for pid in String::from_utf8_lossy(&output.stdout).lines() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let _ = process.wait();
    }

    /// As an operator does it: what runs on it ends in order, and then it is off.
    pub(super) async fn power_off(&mut self) {
        self.ask(Method::POST, paths::POWER_OFF, json!({})).await;
        wait_until(&format!("{} has stopped in order", self.name), async || self.root.join(init::STOPPED).exists())
            .await;
        self.switch_off();
    }

    /// Whether its own API server runs.
    pub(super) fn set_api_server(&self, runs: bool) {
        let file = self.root.join(init::NO_API_SERVER);
        if runs { std::fs::remove_file(file).unwrap() } else { std::fs::write(file, "").unwrap() }
    }

    /// It gets another address, while it is off.
    pub(super) fn move_to(&self, last: u8) {
        sh(&format!("ip -n {} -4 addr flush dev eth0", self.namespace));
        sh(&format!("ip -n {} addr add 10.99.0.{last}/24 dev eth0", self.namespace));
        write_network_state(&self.root, last);
    }

    /// It gets `fd99::last` beside `10.99.0.last`.
    pub(super) fn give_ipv6(&self, last: u8) {
        sh(&format!("ip -n {} addr add fd99::{last}/64 dev eth0 nodad", self.namespace));
        let addresses = [format!("10.99.0.{last}/24"), format!("fd99::{last}/64")];
        write_addresses(&self.root, &addresses.map(|address| address.parse().unwrap()));
    }

    /// As if its document said them.
    pub(super) fn give_networks(&self, pods: &str, services: &str, dns: &str) {
        self.change_config(|cluster| {
            cluster["pod_cidr"] = json!(pods);
            cluster["service_cidr"] = json!(services);
            cluster["dns_address"] = json!(dns);
        });
    }

    fn change_config(&self, change: impl FnOnce(&mut Value)) {
        let file = self.root.join("run/keelson/config/node.json");
        let mut node: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut node["cluster"]);
        std::fs::write(file, node.to_string()).unwrap();
    }

    /// Whether the API server that stands in for the real one is well.
    pub(super) fn set_well(&self, well: bool) {
        let file = self.root.join(stand_in::WELL);
        if well { std::fs::write(file, "").unwrap() } else { std::fs::remove_file(file).unwrap() }
    }

    /// As if its document said it.
    pub(super) fn give_virtual_address(&self, address: IpAddr) {
        self.change_config(|cluster| cluster["virtual_address"] = json!(address));
    }

    pub(super) fn give_token(&self, token: &str) {
        std::fs::write(self.root.join("run/keelson/config/token"), token).unwrap();
    }

    /// Over the node's own socket, as root.
    pub(super) async fn api(&self, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        let stream = UnixStream::connect(self.root.join("run/keelson/cluster/api.sock")).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("host", "node").body(Full::new(body)).unwrap();
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.api(method, path, &body).await.expect("the node's API answers");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Waits until all of these conditions of the node hold.
    pub(super) async fn wait_for(&self, conditions: &[&str]) {
        wait_until(&format!("{}: {conditions:?}", self.name), async || {
            let Some((_, status)) = self.api(Method::GET, "/v1/status", &Value::Null).await else { return false };
            let list = status["conditions"].as_array().cloned().unwrap_or_default();
            let holds = |name: &str| list.iter().any(|one| one["type"] == name && one["status"] == "true");
            conditions.iter().all(|name| holds(name))
        })
        .await;
    }

    /// What an identity of this node is told by Kubernetes' API, through the node's proxy. `certificate` is a file below the
    /// node's root.
    pub(super) fn kubernetes(&self, certificate: &str, method: &str, path: &str, object: &Value) -> Value {
        self.inside(&format!("{method} {path} {certificate} {object}"))
    }

    /// What the API of the node at `address` answers to an operator who is at this node. `name` is whom the operator asks for.
    pub(super) fn operator(&self, address: &str, name: &str, fingerprint: &str, path: &str) -> Value {
        self.inside(&format!("{}{address} {name} {fingerprint} {path}", process::OPERATOR))
    }

    /// Whether somebody at this node gets a connection to `address`.
    pub(super) fn reaches(&self, address: &str) -> bool {
        self.inside(&format!("{}{address}", process::CONNECT)) == true
    }

    fn inside(&self, request: &str) -> Value {
        let output = self.command().env(process::REQUEST, request).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = text.lines().find_map(|line| line.strip_prefix("answer: "));
        let answer = answer.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_str(answer).unwrap()
    }

    pub(super) fn node_object(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": self.name } })
    }
}

pub(super) async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{what}: {} ms", begun.elapsed().as_millis());
}
