//! A pod that kills the node's processes, and the wait until they are back.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kubectl::{KubectlError, array_at, condition_holds, text_at};
use crate::node::{Node, NodeError};
use crate::wait::{self, Timeout};

/// For things that take seconds on an idle emulated node.
const DEADLINE: Duration = Duration::from_mins(4);
/// A minute of silence, or eight questions without an answer, 25 s each.
const HANG_DEADLINE: Duration = Duration::from_mins(8);

/// The services that are programs of this project.
pub const OURS: [&str; 5] = ["network", "log", "store", "cluster", "proxy"];

/// It sees the processes of the node and may end them; its image is the tests' workload.
const POD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: killer}
spec:
  nodeName: NODE
  hostPID: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: killer
    image: keelson.local/workload:1
    imagePullPolicy: Never
    args: [sleep]
    securityContext: {privileged: true, runAsUser: 0}
";

#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error(transparent)]
    Timeout(#[from] Timeout),
    #[error("keelctl services printed no JSON")]
    Services(#[source] serde_json::Error),
}

#[derive(Debug)]
pub struct Killer<'a> {
    node: &'a Node,
    /// Whose API server is asked.
    through: &'a Node,
}

impl<'a> Killer<'a> {
    /// Applies the pod to `node` and waits until it runs.
    pub fn start(node: &'a Node) -> Result<Self, KillError> {
        Self::start_through(node, node)
    }

    /// The same by way of another control plane, which is not disturbed by what is killed.
    pub fn start_through(through: &'a Node, node: &'a Node) -> Result<Self, KillError> {
        let kubectl = through.kubectl();
        kubectl.apply(&POD.replace("NODE", node.machine.name()))?;
        wait::until("the killer pod to run", DEADLINE, || {
            let pod = kubectl.json(&["get", "pod", "killer"]).map_err(|error| error.to_string())?;
            if condition_holds(&pod, "Ready") { Ok(()) } else { Err(text_of(pod.get("status"))) }
        })?;
        Ok(Self { node, through })
    }

    pub fn end(self) -> Result<(), KillError> {
        self.through.kubectl().run(&["delete", "pod", "killer", "--wait=false"])?;
        Ok(())
    }

    /// Kills `service` with SIGKILL and waits until PID 1 calls it ready again and the API server answers. Returns how
    /// long that took.
    pub fn kill(&self, service: &str) -> Result<Duration, KillError> {
        let program = program(service);
        let before = restarts(&find(&services(self.node)?, service));
        let kubectl = self.through.kubectl();
        let kill = || kubectl.run(&["exec", "killer", "--", "/workload", "kill", &program]);
        let killed = Instant::now();
        let mut said = kill();
        wait::until(&format!("{service} to be back"), DEADLINE, || {
            let record = find(&services(self.node).map_err(|error| error.to_string())?, service);
            let restarted = restarts(&record) > before;
            if restarted && text_at(&record, "/state") == "ready" {
                return Ok(());
            }
            // The connection may go through what was killed, so only the service's own record says whether it was; and
            // through what was killed before, which may not take connections yet.
            if !restarted && said.is_err() {
                said = kill();
            }
            Err(format!("{record}; the kill said {said:?}"))
        })?;
        wait::until("the API server to answer", DEADLINE, || {
            kubectl.run(&["get", "--raw", "/readyz"]).map_err(|error| error.to_string())
        })?;
        Ok(killed.elapsed())
    }

    /// What there is of the node, as the workload's `census` prints it.
    pub fn census(&self) -> Result<Vec<String>, KillError> {
        let printed = self.through.kubectl().run(&["exec", "killer", "--", "/workload", "census"])?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// Waits until there is nothing more of the node than in an earlier census: what was on its way then has its time to go.
    pub fn nothing_left_behind(&self, before: &[String]) -> Result<(), KillError> {
        wait::until("what the kills left behind to go", DEADLINE, || {
            let left = more(before, self.census().map_err(|error| error.to_string())?);
            if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
        })?;
        Ok(())
    }

    /// Stops all processes of `services` in the same moment, as a hang does, and waits until each is another one that PID 1 calls ready.
    /// Returns how long each took, in the order in which they were back.
    pub fn freeze(&self, services: &[&str]) -> Result<Vec<(String, Duration)>, KillError> {
        let list = self::services(self.node)?;
        let mut waiting: Vec<_> = services.iter().map(|service| (*service, restarts(&find(&list, service)))).collect();
        let mut back = Vec::new();
        let programs: Vec<_> = services.iter().map(|service| program(service)).collect();
        let mut arguments = vec!["exec", "killer", "--", "/workload", "freeze"];
        arguments.extend(programs.iter().map(String::as_str));
        let kubectl = self.through.kubectl();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            // Who would bring the answer is among the frozen ones.
            scope.spawn(|| drop(kubectl.run(&arguments)));
            wait::until("the hung services to be back", HANG_DEADLINE, || {
                let list = self::services(self.node).map_err(|error| error.to_string())?;
                waiting.retain(|(service, before)| {
                    let record = find(&list, service);
                    let is_back = restarts(&record) > *before && text_at(&record, "/state") == "ready";
                    if is_back {
                        back.push(((*service).to_owned(), begun.elapsed()));
                    }
                    !is_back
                });
                if waiting.is_empty() { Ok(()) } else { Err(format!("{waiting:?} are not")) }
            })
        })?;
        Ok(back)
    }
}

/// What the process of a service is called.
fn program(service: &str) -> String {
    if OURS.contains(&service) { format!("keelson-{service}") } else { service.to_owned() }
}

/// What is in `after` and was not in `before`, or not so often.
fn more(before: &[String], after: Vec<String>) -> Vec<String> {
    let mut before = before.to_vec();
    let is_more = |line: &String| match before.iter().position(|other| other == line) {
        Some(place) => {
            before.swap_remove(place);
            false
        }
        None => true,
    };
    after.into_iter().filter(is_more).collect()
}

fn text_of(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

fn find(services: &[Value], name: &str) -> Value {
    services.iter().find(|service| text_at(service, "/name") == name).cloned().unwrap_or_default()
}

fn restarts(service: &Value) -> u64 {
    service.get("restarts").and_then(Value::as_u64).unwrap_or_default()
}

/// Everything that PID 1 supervises, as keelctl prints it.
pub fn services(node: &Node) -> Result<Vec<Value>, KillError> {
    let list: Value = serde_json::from_str(&node.keelctl(&["services", "-o", "json"])?).map_err(KillError::Services)?;
    Ok(array_at(&list, "/services").to_vec())
}

/// Each running pod's name, UID and restart count.
pub fn running_pods(node: &Node) -> Result<Vec<String>, KillError> {
    let pods = node.kubectl().json(&["get", "pods", "-A"])?;
    let running = array_at(&pods, "/items").iter().filter(|pod| text_at(pod, "/status/phase") == "Running");
    let mut all: Vec<String> = running
        .map(|pod| {
            let count = pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_u64);
            let (name, uid) = (text_at(pod, "/metadata/name"), text_at(pod, "/metadata/uid"));
            format!("{name} {uid} {}", count.unwrap_or_default())
        })
        .collect();
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_more_often_than_before_is_left_behind() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(more(&lines("a b b c"), lines("b c b")), [""; 0]);
        assert_eq!(more(&lines("a b b c"), lines("b d b a b")), ["d", "b"]);
    }

    #[test]
    fn programs_of_ours_have_our_name() {
        assert_eq!((program("store"), program("kubelet")), ("keelson-store".to_owned(), "kubelet".to_owned()));
    }
}
