//! What the node shows: its status, the cluster's nodes, PID 1's services.

use std::{net::IpAddr, time::Duration};

use keelson_api::{
    Condition, ConditionStatus, ErrorCode, Membership, Node as ShownNode, NodeList, Service, ServiceList,
    ServiceState as Shown, Status, Versions, VirtualAddress,
};
use keelson_config::Role;
use keelson_control::{ClientError, ServiceState, ServiceStatus};
use tokio::time::timeout;

use super::{respond::Refusal, router::Context, sources::NodeSourceError, usage};
use crate::node::{ControlError, Node};
use crate::{rotation, virtual_address};

/// Kubernetes' API server on every control plane.
const API_SERVER_PORT: u16 = 6443;

/// How long Kubernetes may take for a list of nodes.
const NODES_DEADLINE: Duration = Duration::from_secs(15);

/// The pins of the Go parts, of which one line names Kubernetes' version.
const KUBERNETES_PINS: &str = include_str!("../../../../../image/kubernetes/go.mod");

pub fn membership(node: &Node) -> Membership {
    Membership {
        member: node.member_now().is_some(),
        founds: node.config.bootstrap,
        instance: node.instance().to_owned(),
    }
}

pub fn status(node: &Node) -> Status {
    let member = node.member_now();
    let addresses = node.addresses();
    let view = member.as_ref().and_then(|member| member.registry.as_ref()?.view_now());
    Status {
        name: node.name().to_owned(),
        role: node.config.role.as_str().to_owned(),
        phase: node.status.phase(),
        boot_id: boot_id(node),
        ready: node.status.ready(),
        api_server: member.as_ref().and(addresses.first()).map(|address| api_server_url(*address)),
        virtual_address: virtual_address::shown(node),
        rotation: view.as_deref().and_then(rotation::shown),
        cluster_id: member.map(|member| member.identity.cluster_id.as_str().to_owned()),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        versions: Versions {
            keelson: first_line(node, "/usr/share/keelson/version"),
            kubernetes: kubernetes_version(KUBERNETES_PINS).unwrap_or_default().to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        },
        conditions: node.status.conditions(),
    }
}

pub fn api_server_url(address: IpAddr) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, API_SERVER_PORT))
}

/// The kernel's id of the running boot; empty where /proc does not tell.
pub fn boot_id(node: &Node) -> String {
    first_line(node, "/proc/sys/kernel/random/boot_id")
}

fn first_line(node: &Node, path: &str) -> String {
    std::fs::read_to_string(node.paths.at(path))
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn kubernetes_version(pins: &str) -> Option<&str> {
    pins.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")).map(str::trim)
}

pub async fn nodes(context: &Context) -> Result<NodeList, Refusal> {
    match timeout(NODES_DEADLINE, context.nodes.nodes()).await {
        Ok(Ok(mut list)) => {
            let members = members(&context.node).into_iter();
            let unknown: Vec<_> =
                members.filter(|member| !list.nodes.iter().any(|node| node.name == member.name)).collect();
            list.nodes.extend(unknown);
            list.nodes.sort_by(|a, b| a.name.cmp(&b.name));
            if let Some(VirtualAddress { address, holder: Some(holder), .. }) = virtual_address::shown(&context.node) {
                for node in list.nodes.iter_mut().filter(|node| node.name == holder) {
                    node.virtual_address = Some(address.clone());
                }
            }
            Ok(list)
        }
        Ok(Err(error @ NodeSourceError::Unavailable(_))) => Err(Refusal::because(ErrorCode::Unavailable, &error)),
        Ok(Err(error)) => Err(Refusal::because(ErrorCode::Internal, &error)),
        Err(_) => Err(Refusal::new(ErrorCode::Timeout, "Kubernetes' API did not answer in time")),
    }
}

/// The cluster's members as this node knows them, as they are where Kubernetes does not know them: a node that is stuck
/// between its join and the first word of its kubelet is seen, too.
fn members(node: &Node) -> Vec<ShownNode> {
    let Some(member) = node.member_now() else { return Vec::new() };
    if let Some(worker) = &member.worker {
        let settings = worker.settings_now();
        let is_plane = |name: &str| settings.control_planes.iter().any(|plane| plane.name == name);
        let role = |name: &str| if is_plane(name) { Role::ControlPlane } else { Role::Worker };
        let members = settings.members.iter();
        return members.map(|member| unregistered(&member.name, role(&member.name), &member.addresses)).collect();
    }
    let view = member.registry.as_ref().and_then(|registry| registry.view_now());
    let records = view.iter().flat_map(|view| view.nodes.values());
    records.map(|record| unregistered(&record.name, record.role, &record.addresses)).collect()
}

fn unregistered(name: &str, role: Role, addresses: &[String]) -> ShownNode {
    ShownNode {
        name: name.to_owned(),
        role: role.as_str().to_owned(),
        ready: false,
        unschedulable: false,
        addresses: addresses.to_vec(),
        virtual_address: None,
        kubelet_version: String::new(),
        created: None,
        conditions: vec![Condition {
            kind: "Ready".to_owned(),
            status: ConditionStatus::Unknown,
            reason: "it has joined the cluster, and its kubelet has not registered it yet".to_owned(),
            since: None,
        }],
    }
}

pub async fn services(context: &Context) -> Result<ServiceList, Refusal> {
    let status = context.node.control(|mut client| client.list()).await.map_err(|error| control_refusal(&error))?;
    let services = status.services.iter().map(|status| service(status, &context.node)).collect();
    Ok(ServiceList { init: usage::of_process(&context.node.paths, 1), services })
}

fn service(status: &ServiceStatus, node: &Node) -> Service {
    let mut usage = status.pid.map(|pid| usage::of_process(&node.paths, pid)).unwrap_or_default();
    // The cgroup's account outlives a process that was started again.
    usage.cpu_seconds = status.cpu_microseconds.map(usage::seconds).or(usage.cpu_seconds);
    let reason = status.waiting_for.as_ref().map(|what| format!("waits for {what}")).or_else(|| status.reason.clone());
    Service {
        name: status.name.to_string(),
        state: match status.state {
            ServiceState::Stopped => Shown::Stopped,
            ServiceState::Waiting => Shown::Waiting,
            ServiceState::Starting => Shown::Starting,
            ServiceState::Ready => Shown::Ready,
            ServiceState::Stopping => Shown::Stopping,
            ServiceState::Backoff => Shown::Backoff,
            ServiceState::Done => Shown::Done,
            ServiceState::Failed => Shown::Failed,
        },
        reason: reason.unwrap_or_default(),
        pid: status.pid,
        restarts: status.restarts,
        seconds_in_state: status.in_state_milliseconds / 1000,
        last_exit: status
            .last_exit
            .as_ref()
            .map(|exit| format!("{} {} s ago", exit.reason, exit.milliseconds_ago / 1000)),
        memory_bytes: status.memory_bytes,
        usage,
    }
}

/// What it means for the caller that PID 1 did not do as it was asked.
pub fn control_refusal(error: &ControlError) -> Refusal {
    let code = match error {
        ControlError::Client(ClientError::TimedOut) => ErrorCode::Timeout,
        ControlError::Client(ClientError::Connect { .. } | ClientError::Closed | ClientError::Refused { .. }) => {
            ErrorCode::Unavailable
        }
        ControlError::Client(_) | ControlError::Interrupted => ErrorCode::Internal,
    };
    Refusal::because(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_name_kubernetes_version() {
        let version = kubernetes_version(KUBERNETES_PINS).expect("a pin of Kubernetes");
        assert!(version.starts_with("v1."), "{version}");
        assert_eq!(
            kubernetes_version("require (\n\tk8s.io/kubernetesx v9\n\tk8s.io/kubernetes v1.2.3\n)"),
            Some("v1.2.3")
        );
        assert_eq!(kubernetes_version("module a"), None);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(api_server_url("192.0.2.1".parse().expect("an address")), "https://192.0.2.1:6443");
        assert_eq!(api_server_url("2001:db8::1".parse().expect("an address")), "https://[2001:db8::1]:6443");
    }
}
