//! Kubernetes' components: the files each is told by, and the services that PID 1 runs.
//!
//! One module a component. Each gives its files (pure functions of the circumstances) and its [`ServiceSpec`]; writing them
//! and handing the set over is done here. A component reads nothing outside its own directory below `/run/keelson`, and runs
//! under its own account where it can.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::digest;
use keelson_config::{Component, NodeConfig};
use keelson_control::{Account, Condition, InvalidServiceName, Readiness, ServiceName, ServiceSpec};
use keelson_pki::{Clock, Files, FilesError, Mode, Owner, kubeconfig};
use serde_json::Value;

use crate::credentials::{self, Circumstances, CredentialError};
use crate::membership::Membership;
use crate::paths::Paths;
use crate::registry_credentials::RegistryCredentialsError;

mod api_server;
mod controller_manager;
mod kube_proxy;
mod kubelet;
mod registries;
mod scheduler;

pub use kubelet::{SHUTDOWN_GRACE, is_accepted_label};

/// The node's proxy, which finds an API server that is well.
pub const PROXY_URL: &str = "https://127.0.0.1:6444";
/// PID 1's service of it.
const PROXY_SERVICE: &str = "proxy";
/// Every suite of TLS 1.2 that has forward secrecy and authenticated encryption; TLS 1.3's cannot be chosen.
pub const CIPHER_SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];
pub const TLS_MIN_VERSION: &str = "VersionTLS12";
/// The API server's and the controllers' watches, and a file for each.
const OPEN_FILES: u64 = 1 << 20;
/// Their threads, and what kubelet starts to mount volumes: more than any of them was seen to have, and no pod's processes are among them.
const PIDS_MAX: u32 = 4096;

/// On a machine that emulates its processor and has others beside it, an API server was seen to take five minutes.
const START_SECONDS: u32 = 900;

#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("certifying Kubernetes' components")]
    Credentials(#[from] CredentialError),
    #[error("writing the settings of Kubernetes' components")]
    Files(#[from] FilesError),
    #[error("writing the settings of Kubernetes' components")]
    Serialize(#[from] serde_json::Error),
    #[error(transparent)]
    RegistryCredentials(#[from] RegistryCredentialsError),
    #[error("naming a service")]
    ServiceName(#[from] InvalidServiceName),
}

/// Everything that the components' settings follow from.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    pub paths: &'a Paths,
    pub config: &'a NodeConfig,
    pub membership: &'a Membership,
    /// The address that the node is known by.
    pub address: IpAddr,
    /// All of them, the preferred one first.
    pub addresses: &'a [IpAddr],
    /// Where components find the Kubernetes API.
    pub api_server_url: &'a str,
    /// The UIDs of nodes that were removed and whose certificates have not all expired.
    pub removed: &'a [String],
}

impl<'a> Settings<'a> {
    pub fn circumstances(&self) -> Circumstances<'a> {
        Circumstances { identity: &self.membership.identity, cluster: &self.config.cluster, addresses: self.addresses }
    }

    fn name(&self) -> &'a str {
        &self.membership.identity.name
    }

    /// A file in a component's own directory.
    fn file(&self, component: Component, name: &str) -> PathBuf {
        self.paths.service(component.as_str()).join(name)
    }
}

/// A file that a component reads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ComponentFile {
    name: &'static str,
    content: Vec<u8>,
    mode: Mode,
    /// The component reads it at its start only, so a change restarts the component.
    read_once: bool,
}

impl ComponentFile {
    fn settings(name: &'static str, content: &Value) -> Result<Self, KubernetesError> {
        Ok(Self { name, content: serde_json::to_vec_pretty(content)?, mode: Mode::SECRET, read_once: true })
    }

    fn certificate(name: &'static str, pem: String) -> Self {
        Self { name, content: pem.into_bytes(), mode: Mode::SECRET, read_once: true }
    }

    /// The component notices by itself when the file changes.
    fn watched(self) -> Self {
        Self { read_once: false, ..self }
    }
}

/// A component as it is wanted.
struct Wanted {
    component: Component,
    files: Vec<ComponentFile>,
    spec: ServiceSpec,
}

/// Writes everything the components read, and returns the services that PID 1 is to run.
pub fn configure(files: &dyn Files, settings: Settings<'_>, clock: Clock) -> Result<Vec<ServiceSpec>, KubernetesError> {
    let mut wanted = Vec::new();
    if let Some(held) = settings.membership.control_plane() {
        wanted.push(api_server::wanted(settings, held)?);
        wanted.push(controller_manager::wanted(settings, held)?);
        wanted.push(scheduler::wanted(settings)?);
    }
    wanted.push(kubelet::wanted(settings)?);
    wanted.push(kube_proxy::wanted(settings)?);
    for component in &wanted {
        let directory = settings.paths.service(component.component.as_str());
        let account = &component.spec.account;
        let owner = Owner { uid: account.uid, gid: account.gid };
        files.directory(&directory, Mode::PRIVATE_DIRECTORY, owner)?;
        for file in &component.files {
            files.update(&directory.join(file.name), &file.content, file.mode, owner)?;
        }
    }
    make_data_directories(files, settings, &wanted)?;
    registries::configure(files, settings)?;
    // A worker's come from the control planes and are put there by [`crate::worker::deliver`].
    if let Some(held) = settings.membership.control_plane() {
        let credentials = settings.circumstances().kubernetes();
        credentials::issue(files, settings.paths, &held.authorities, &credentials, clock)?;
    }
    Ok(wanted.into_iter().map(|component| component.spec).collect())
}

fn make_data_directories(files: &dyn Files, settings: Settings<'_>, wanted: &[Wanted]) -> Result<(), KubernetesError> {
    for component in wanted {
        let account = &component.spec.account;
        let owner = Owner { uid: account.uid, gid: account.gid };
        let directories: &[(&str, Mode)] = match component.component {
            Component::KubeApiserver => &[(api_server::AUDIT_DIRECTORY, Mode::PRIVATE_DIRECTORY)],
            Component::Kubelet => &[
                (kubelet::ROOT_DIRECTORY, Mode::PRIVATE_DIRECTORY),
                (kubelet::VOLUME_PLUGIN_DIRECTORY, Mode::PUBLIC_DIRECTORY),
            ],
            _ => &[],
        };
        for (directory, mode) in directories {
            files.directory(&settings.paths.at(directory), *mode, owner)?;
        }
    }
    Ok(())
}

/// A component that is the API server's client: its kubeconfig, and by whom it knows the server.
fn client_files(settings: Settings<'_>, component: Component) -> Result<Vec<ComponentFile>, KubernetesError> {
    let file = |name: &str| settings.file(component, name);
    let kubeconfig = kubeconfig::for_component(settings.api_server_url, &file("serving-ca.crt"), &file("client.pem"));
    let authority = settings.membership.trust.kubernetes_serving.sorted_pem();
    Ok(vec![
        ComponentFile::settings("kubeconfig", &kubeconfig)?,
        ComponentFile::certificate("serving-ca.crt", authority),
    ])
}

/// What the controller manager and the scheduler have in common: clients and servers on the loopback, one of whom leads.
fn controller_flags(settings: Settings<'_>, component: Component) -> Flags {
    let file = |name: &str| settings.file(component, name);
    let mut flags = Flags::default();
    flags
        .path("kubeconfig", &file("kubeconfig"))
        .path("authentication-kubeconfig", &file("kubeconfig"))
        .path("authorization-kubeconfig", &file("kubeconfig"))
        .set("bind-address", "127.0.0.1")
        .path("tls-cert-file", &file("serving.pem"))
        .path("tls-private-key-file", &file("serving.pem"))
        .set("tls-min-version", TLS_MIN_VERSION)
        .set("tls-cipher-suites", CIPHER_SUITES.join(","))
        .set("profiling", "false");
    leader_election(&mut flags);
    flags
}

/// What a client of the API server waits for that is of no use without one: the proxy, and the file that stands while one is ready.
fn api_server_conditions(ready: PathBuf) -> Result<Vec<Condition>, InvalidServiceName> {
    Ok(vec![Condition::ServiceReady(ServiceName::new(PROXY_SERVICE)?), Condition::FileExists(ready)])
}

/// Such a component's service.
fn controller_service(
    settings: Settings<'_>,
    component: Component,
    files: &[ComponentFile],
    flags: Flags,
    (account, port): (u32, u16),
) -> Result<ServiceSpec, KubernetesError> {
    let mut spec = service(component, files, flags.with_extra(settings, component))?;
    spec.account = Account::id(account);
    // Where they lead, features are stated at the node's own API server.
    spec.conditions = api_server_conditions(settings.paths.apiserver_ready())?;
    spec.stop_before = vec![ServiceName::new("kube-apiserver")?];
    spec.readiness = Readiness::Tcp(([127, 0, 0, 1], port).into());
    spec.limits.oom_score_adj = Some(-997);
    Ok(spec)
}

/// Longer than the defaults, because on a machine whose processor is short a renewal may take ten seconds; what a lease of a dead
/// process would cost at the next start is saved by releasing it ([`crate::leases`]).
fn leader_election(flags: &mut Flags) {
    flags.set("leader-elect-lease-duration", "30s").set("leader-elect-renew-deadline", "20s");
}

/// A component's service with what all of them have in common.
fn service(component: Component, files: &[ComponentFile], flags: Flags) -> Result<ServiceSpec, KubernetesError> {
    let name = ServiceName::new(component.as_str())?;
    let mut spec = ServiceSpec::daemon(name, format!("/usr/bin/{component}"));
    spec.arguments = flags.into_arguments();
    spec.environment.insert("PATH".to_owned(), "/usr/bin".to_owned());
    spec.limits.nofile = Some(OPEN_FILES);
    spec.limits.pids_max = Some(PIDS_MAX);
    spec.timeout_start_seconds = START_SECONDS;
    spec.revision = revision(files);
    Ok(spec)
}

/// Changes when a file changes that the component reads only once.
fn revision(files: &[ComponentFile]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for file in files.iter().filter(|file| file.read_once) {
        context.update(file.name.as_bytes());
        context.update(&(file.content.len() as u64).to_be_bytes());
        context.update(&file.content);
    }
    context.finish().as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Flags by name, so that an operator's extra argument replaces ours instead of standing beside it.
#[derive(Debug, Default)]
struct Flags(BTreeMap<String, String>);

impl Flags {
    fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn path(&mut self, name: &str, path: &std::path::Path) -> &mut Self {
        self.set(name, path.display().to_string())
    }

    fn with_extra(mut self, settings: Settings<'_>, component: Component) -> Self {
        if let Some(extra) = settings.config.cluster.extra_arguments.get(&component) {
            self.0.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        self
    }

    fn into_arguments(self) -> Vec<String> {
        self.0.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
    }
}

#[cfg(test)]
mod tests;
