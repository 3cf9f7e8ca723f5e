//! A machine that is a node: how its operator gets in, and what "it is up" means.
//!
//! The way in is the documented one. The machine is given the public half of an operator key; its console prints the
//! fingerprint of its API's authority; keelctl proves the key and pins the fingerprint.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::build::Image;
use crate::console::Silence;
use crate::dns;
use crate::kubectl::{Kubectl, KubectlError, array_at, condition_holds, text_at};
use crate::machine::{Machine, MachineError};
use crate::wait::{self, Timeout};

/// From power-on to the API's fingerprint on the console. Emulated: 15 s idle.
const FINGERPRINT_DEADLINE: Duration = Duration::from_mins(2);
/// From power-on to Ready. Emulated: a minute and a half on an idle machine.
const READY_DEADLINE: Duration = Duration::from_mins(8);
/// A member starts on what the machines that are up already leave it.
const MEMBER_DEADLINE: Duration = Duration::from_mins(15);
/// From Ready to an answer of the cluster's resolver: its image is unpacked meanwhile.
const DNS_DEADLINE: Duration = Duration::from_mins(5);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the machine is on no network that leads into it")]
    NoWayIn,
    #[error("the console did not say under which authority the API answers")]
    Fingerprint(#[source] Box<Silence>),
    #[error("this line of the console has no fingerprint: {0}")]
    NoFingerprint(String),
    #[error("cannot run keelctl")]
    RunKeelctl(#[source] std::io::Error),
    #[error("keelctl {arguments} failed: {message}")]
    Keelctl { arguments: String, message: String },
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error("{what}")]
    NotUp { what: &'static str, source: Box<Silence> },
    #[error("cannot forward a port into the cluster")]
    Forward(#[source] Box<Timeout>),
}

/// The operator's programs on this host.
#[derive(Debug, Clone)]
pub struct Tools {
    pub keelctl: PathBuf,
    pub kubectl: PathBuf,
}

impl Tools {
    pub fn new(keelctl: PathBuf, image: &Image) -> Self {
        Self { keelctl, kubectl: image.kubectl.clone() }
    }

    /// Makes an operator key in `file` and returns the configuration word that gives a node its public half.
    pub fn generate_key(&self, file: &Path) -> Result<String, NodeError> {
        let file = file.display().to_string();
        self.run(&["key", "generate", &file]).map(|word| word.trim().to_owned())
    }

    fn run(&self, arguments: &[&str]) -> Result<String, NodeError> {
        let output = Command::new(&self.keelctl).args(arguments).output().map_err(NodeError::RunKeelctl)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NodeError::Keelctl { arguments: arguments.join(" "), message })
    }
}

#[derive(Debug)]
pub struct Node {
    pub machine: Machine,
    tools: Tools,
}

impl Node {
    pub fn new(machine: Machine, tools: Tools) -> Self {
        Self { machine, tools }
    }

    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    pub fn operator_key(folder: &Path) -> PathBuf {
        folder.join("operator.key")
    }

    fn keelctl_configuration(&self) -> PathBuf {
        self.machine.folder().join("keelctl.yaml")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.machine.folder().join("kubeconfig")
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl { program: self.tools.kubectl.clone(), kubeconfig: self.kubeconfig() }
    }

    /// Runs keelctl as this node's operator.
    pub fn keelctl(&self, arguments: &[&str]) -> Result<String, NodeError> {
        let configuration = self.keelctl_configuration().display().to_string();
        self.tools.run(&[&["--config", &configuration], arguments].concat())
    }

    /// Waits until the node says on its console how its API is known, and lets keelctl pin it.
    pub fn pin_api(&self) -> Result<(), NodeError> {
        let ports = self.machine.ports().ok_or(NodeError::NoWayIn)?;
        let deadline = self.machine.speed().scale(FINGERPRINT_DEADLINE);
        let line = self
            .machine
            .console()
            .wait_for("fingerprint sha256:", 0, deadline)
            .map_err(|silence| NodeError::Fingerprint(Box::new(silence)))?;
        let word = line.split_whitespace().find(|word| word.starts_with("sha256:"));
        let fingerprint = word.ok_or_else(|| NodeError::NoFingerprint(line.clone()))?;
        let endpoint = format!("https://127.0.0.1:{}", ports.cluster);
        let key = Self::operator_key(self.machine.folder()).display().to_string();
        let context = ["config", "set-context", self.machine.name(), "--endpoint", &endpoint];
        self.keelctl(&[&context[..], &["--fingerprint", fingerprint, "--key", &key]].concat())?;
        Ok(())
    }

    /// Fetches a kubeconfig that leads through the forwarded port.
    pub fn fetch_kubeconfig(&self) -> Result<(), NodeError> {
        let ports = self.machine.ports().ok_or(NodeError::NoWayIn)?;
        let server = format!("https://127.0.0.1:{}", ports.kubernetes);
        let file = self.kubeconfig().display().to_string();
        self.keelctl(&["kubeconfig", "--server", &server, "--output-file", &file]).map(drop)
    }

    /// Waits for the Node object's `Ready` condition. `seen` hears what is awaited meanwhile.
    pub fn wait_ready(&self, mut seen: impl FnMut(&str)) -> Result<(), NodeError> {
        let deadline = self.machine.speed().scale(READY_DEADLINE);
        let looked = wait::until("the node to be Ready", deadline, || {
            self.fail_if_off()?;
            let state = self.look_ready();
            if let Err(reason) = &state {
                seen(reason);
            }
            state
        });
        looked.map_err(|timeout| self.not_up("the node is not Ready", timeout))
    }

    /// Waits until another machine is a Ready node of this one's cluster.
    pub fn wait_member_ready(&self, member: &Machine) -> Result<(), NodeError> {
        let name = member.name();
        let deadline = self.machine.speed().scale(MEMBER_DEADLINE);
        let looked = wait::patiently(&format!("node {name} to be Ready"), deadline, || {
            if !member.is_running() {
                return Err("the machine has ended".to_owned());
            }
            let node = self.kubectl().json(&["get", "node", name]).map_err(|error| error.to_string())?;
            if condition_holds(&node, "Ready") { Ok(()) } else { Err("registered and not Ready yet".to_owned()) }
        });
        looked.map_err(|timeout| NodeError::NotUp {
            what: "the machine is no Ready node of the cluster",
            source: Box::new(member.console().explain(timeout)),
        })
    }

    fn look_ready(&self) -> Result<(), String> {
        if !self.kubeconfig().exists() {
            self.fetch_kubeconfig().map_err(|error| error.to_string())?;
        }
        let nodes = self.kubectl().json(&["get", "nodes"]).map_err(|error| error.to_string())?;
        let own = |node: &&Value| text_at(node, "/metadata/name") == self.machine.name();
        match array_at(&nodes, "/items").iter().find(own) {
            None => Err("the API server answers; the node is not registered yet".to_owned()),
            Some(node) if condition_holds(node, "Ready") => Ok(()),
            Some(_) => Err("the node is registered and not Ready yet".to_owned()),
        }
    }

    /// Waits until the cluster's resolver answers a question put to it through the API server.
    pub fn wait_dns(&self) -> Result<Ipv4Addr, NodeError> {
        let deadline = self.machine.speed().scale(DNS_DEADLINE);
        let looked = wait::until("cluster DNS to answer", deadline, || {
            self.fail_if_off()?;
            let pods = self
                .kubectl()
                .json(&["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns"])
                .map_err(|error| error.to_string())?;
            if !array_at(&pods, "/items").iter().any(|pod| condition_holds(pod, "Ready")) {
                return Err("no CoreDNS pod is Ready".to_owned());
            }
            let forward = Forward::open(&self.kubectl(), "kube-system", "service/kube-dns", 53)
                .map_err(|timeout| timeout.to_string())?;
            dns::address_of("kubernetes.default.svc.cluster.local", forward.address).map_err(|error| error.to_string())
        });
        looked.map_err(|timeout| self.not_up("cluster DNS does not answer", timeout))
    }

    /// A machine that has ended will not come up any more; the wait need not run to its deadline.
    fn fail_if_off(&self) -> Result<(), String> {
        if self.machine.is_running() { Ok(()) } else { Err("the machine has ended".to_owned()) }
    }

    fn not_up(&self, what: &'static str, timeout: Timeout) -> NodeError {
        NodeError::NotUp { what, source: Box::new(self.machine.console().explain(timeout)) }
    }
}

/// A running `kubectl port-forward`, ended on drop.
#[derive(Debug)]
pub struct Forward {
    child: Child,
    /// Kept open: kubectl has more to say, and a closed pipe would end it.
    _output: Option<BufReader<ChildStdout>>,
    pub address: SocketAddr,
}

impl Forward {
    pub fn open(kubectl: &Kubectl, namespace: &str, target: &str, port: u16) -> Result<Self, Timeout> {
        let remote = format!(":{port}");
        let failed = |last_seen: String| Timeout {
            awaited: format!("kubectl port-forward to {target}"),
            waited: Duration::ZERO,
            last_seen,
        };
        let mut child = kubectl
            .command(&["-n", namespace, "port-forward", target, &remote])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        // kubectl prints "Forwarding from 127.0.0.1:PORT -> 53" once it listens, and ends if it cannot.
        let mut line = String::new();
        let mut output = child.stdout.take().map(BufReader::new);
        if let Some(output) = &mut output {
            let _ = output.read_line(&mut line);
        }
        let address = line.split_whitespace().find_map(|word| word.parse::<SocketAddr>().ok());
        let forward =
            Self { child, _output: output, address: address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))) };
        if address.is_some() { Ok(forward) } else { Err(failed(format!("it printed {line:?}"))) }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
