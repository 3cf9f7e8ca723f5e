//! The boot's milestones, and how each is seen from outside.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::console::Console;
use crate::kubectl::{Kubectl, array_at, condition_holds};
use crate::node::Node;
use crate::proxy::Proxy;
use crate::wait;

use super::{BenchError, LOOK_INTERVAL};

/// Emulated boots take a minute and a half.
const DEADLINE: Duration = Duration::from_mins(10);

/// Name and meaning, in the order in which a boot passes them.
pub const MILESTONES: [(&str, &str); 7] = [
    ("kernel", "kernel entry"),
    ("init", "PID 1"),
    ("network", "network up"),
    ("store", "store serving"),
    ("api_server", "API server ready"),
    ("ready", "node Ready"),
    ("dns", "DNS answering"),
];

/// Seconds from QEMU's start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Milestones {
    pub kernel: f64,
    pub init: f64,
    pub network: f64,
    pub store: f64,
    pub api_server: f64,
    pub ready: f64,
    pub dns: f64,
}

impl Milestones {
    /// In the order of [`MILESTONES`].
    pub fn values(&self) -> [f64; 7] {
        [self.kernel, self.init, self.network, self.store, self.api_server, self.ready, self.dns]
    }
}

/// Watches a node of ours to Ready; [`Milestones::dns`] is left for [`observe_dns`].
pub(super) fn observe(node: &Node, started: Instant) -> Result<Milestones, BenchError> {
    let ready_line = |service: &'static str| {
        move |line: &str| {
            let mut words = line.split_whitespace().skip_while(|word| *word != service);
            words.next().is_some() && words.next().is_some_and(|word| word.trim_end_matches(':') == "ready")
        }
    };
    let console = node.machine.console();
    let seen = |milestone, is_it: &dyn Fn(&str) -> bool| line_seen(&console, milestone, started, is_it);
    let milestones = Milestones {
        kernel: seen("kernel", &|line| line.contains("Linux version"))?,
        init: seen("init", &|line| line.starts_with("keelson "))?,
        network: seen("network", &ready_line("network"))?,
        store: seen("store", &ready_line("store"))?,
        ..Milestones::default()
    };
    node.pin_api()?;
    node.fetch_kubeconfig()?;
    let (api_server, ready) = observe_api(&node.kubectl(), started)?;
    Ok(Milestones { api_server, ready, ..milestones })
}

/// Waits for a line on the console.
pub(super) fn line_seen(
    console: &Console,
    milestone: &'static str,
    started: Instant,
    is_it: &dyn Fn(&str) -> bool,
) -> Result<f64, BenchError> {
    reach(milestone, started, || console.text().lines().any(is_it))
}

/// Waits until the API server says that it is ready, and then until some node is, both as a client sees it.
pub(super) fn observe_api(kubectl: &Kubectl, started: Instant) -> Result<(f64, f64), BenchError> {
    let proxy = Proxy::start(kubectl)?;
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).build().into();
    let get = |path: &str| {
        let answer = agent.get(format!("http://{}{path}", proxy.address())).call();
        answer.and_then(|mut answer| answer.body_mut().read_to_string())
    };
    let api_server = reach("api_server", started, || get("/readyz").is_ok())?;
    let ready = reach("ready", started, || {
        let nodes: Value =
            get("/api/v1/nodes").ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        array_at(&nodes, "/items").iter().any(|node| condition_holds(node, "Ready"))
    })?;
    Ok((api_server, ready))
}

pub(super) fn observe_dns(node: &Node, started: Instant) -> Result<f64, BenchError> {
    node.wait_dns()?;
    Ok(started.elapsed().as_secs_f64())
}

/// From PID 1's own stamps: "keelson    6.831s  kube-apiserver started".
pub(super) fn init_to_api_server(console: &str) -> Option<f64> {
    let stamp = |line: &str| line.strip_prefix("keelson ")?.split_whitespace().next()?.strip_suffix('s')?.parse().ok();
    let first: f64 = console.lines().find_map(stamp)?;
    let started: f64 = console.lines().find(|line| line.ends_with("kube-apiserver started")).and_then(stamp)?;
    Some(started - first)
}

fn reach(milestone: &'static str, started: Instant, mut look: impl FnMut() -> bool) -> Result<f64, BenchError> {
    while !look() {
        if started.elapsed() > DEADLINE {
            return Err(BenchError::Missed { milestone, deadline: DEADLINE });
        }
        wait::pause(LOOK_INTERVAL);
    }
    Ok(started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_the_api_server_is_between_two_of_the_nodes_stamps() {
        let console = "[    2.8] Key type\nkeelson    3.250s  root          Keelson 0.1.0\n\
                       keelson    6.750s  kube-apiserver started\nkeelson    9.000s  kube-apiserver started\n";
        assert_eq!(init_to_api_server(console), Some(3.5));
        assert_eq!(init_to_api_server("keelson    3.250s  root          Keelson 0.1.0\n"), None);
    }
}
