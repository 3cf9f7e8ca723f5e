//! Pods that take what they can, on the shared machine: others and the node's own services do not notice, or recover.

use std::time::{Duration, Instant};

use keelson_vm::killer::{self, Killer};
use keelson_vm::kubectl::condition_holds;
use keelson_vm::machine::SHUTDOWN_DEADLINE;
use keelson_vm::node::Node;
use keelson_vm::wait;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::lifecycle::with_web;
use crate::shared::{Outcome, ensure, trial, with_node};

/// For things that take seconds on an idle emulated node.
const MINUTES: Duration = Duration::from_mins(6);
/// From the end of pressure on a node to the end of its being told of: five minutes, and kubelet's own pace.
const PRESSURE: Duration = Duration::from_mins(9);
/// How long a fork bomb goes on while the others are looked at.
const BOMB: Duration = Duration::from_secs(40);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_fork_bomb_stays_in_its_pod", fork_bomb),
        trial("a_memory_hog_is_taken_and_no_service_of_ours", memory_hog),
        trial("full_data_fails_cleanly_and_the_node_comes_back", full_data),
        trial("hung_services_are_killed_and_no_pod_restarts", hangs),
        trial("a_reboot_waits_for_no_pod_that_does_not_end", stubborn_pods),
        // The last: it resets the machine.
        trial("a_frozen_pid_1_is_reset_by_the_watchdog_and_the_next_boot_says_so", frozen_init),
    ]
}

/// `host` is a folder of the machine's, at `/host` in the pod. What it mounts there, the machine has too.
fn pod(name: &str, arguments: &str, host: &str) -> String {
    pod_with_grace(name, arguments, host, 5)
}

/// The same, with so many seconds between SIGTERM and SIGKILL.
fn pod_with_grace(name: &str, arguments: &str, host: &str, seconds: u32) -> String {
    let (context, volumes) = if host.is_empty() {
        (String::new(), String::new())
    } else {
        let context = "\n    securityContext: {privileged: true, runAsUser: 0}\n    volumeMounts: [{name: host, mountPath: /host, mountPropagation: Bidirectional}]";
        (context.to_owned(), format!("\n  volumes: [{{name: host, hostPath: {{path: {host}}}}}]"))
    };
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {seconds}
  containers:
  - name: {name}
    image: keelson.local/workload:1
    imagePullPolicy: Never
    args: [{arguments}]{context}{volumes}
"
    )
}

fn phase(node: &Node, name: &str) -> Result<Value, String> {
    node.kubectl().json(&["get", "pod", name]).map(|pod| pod["status"].clone()).map_err(|error| error.to_string())
}

pub(crate) fn wait_phase(node: &Node, name: &str, wanted: &[&str]) -> Result<Value, Failed> {
    Ok(wait::until(&format!("pod {name} to be {wanted:?}"), MINUTES, || {
        let status = phase(node, name)?;
        if wanted.contains(&status["phase"].as_str().unwrap_or_default()) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })?)
}

fn delete(node: &Node, name: &str) -> Outcome {
    node.kubectl().run(&["delete", "pod", name, "--wait=false"])?;
    wait::until(&format!("pod {name} to be gone"), MINUTES, || {
        let pods = node.kubectl().run(&["get", "pods", "-o", "name"]).map_err(|error| error.to_string())?;
        if pods.contains(&format!("pod/{name}")) { Err(pods) } else { Ok(()) }
    })?;
    Ok(())
}

/// Name and restarts of each service.
fn restarts(node: &Node) -> Result<Vec<String>, Failed> {
    let services = killer::services(node)?;
    Ok(services.iter().map(|service| format!("{} {}", service["name"], service["restarts"])).collect())
}

/// Nothing of the node's own, and no other pod, has been restarted.
fn unharmed(node: &Node, services: &[String], pods: &[String]) -> Outcome {
    let (now, pods_now) = (restarts(node)?, killer::running_pods(node)?);
    ensure(now == services, || format!("services restarted: before {services:?}, after {now:?}"))?;
    let lost: Vec<_> = pods.iter().filter(|pod| !pods_now.contains(pod)).collect();
    ensure(lost.is_empty(), || format!("pods ended or restarted: {lost:?}"))
}

fn web_answers(node: &Node) -> Result<(), String> {
    let path = "/api/v1/namespaces/default/services/web:80/proxy/env";
    let answer = node.kubectl().run(&["get", "--raw", path]).map_err(|error| error.to_string())?;
    if answer.contains("from a config map") { Ok(()) } else { Err(answer) }
}

fn fork_bomb() -> Outcome {
    with_node(|node| {
        let (services, pods) = (restarts(node)?, killer::running_pods(node)?);
        node.kubectl().apply(&pod("bomb", "forks", ""))?;
        wait_phase(node, "bomb", &["Running"])?;
        let began = Instant::now();
        let mut answers = 0;
        while began.elapsed() < BOMB {
            wait::until("the web service to answer beside a fork bomb", MINUTES, || web_answers(node))?;
            answers += 1;
        }
        println!("{answers} answers in {:.0} s beside a fork bomb", began.elapsed().as_secs_f64());
        delete(node, "bomb")?;
        node.wait_ready(|_| ())?;
        unharmed(node, &services, &pods)
    })
}

/// Those that say by themselves that they live, and those that are asked.
fn hangs() -> Outcome {
    with_node(|node| {
        let killer = Killer::start(node)?;
        let pods = killer::running_pods(node)?;
        for services in [&["network", "log", "proxy", "cluster", "store"][..], &["kube-proxy", "kubelet", "containerd"]]
        {
            for (service, after) in killer.freeze(services)? {
                println!("{service}: hung, and another one ready after {:.0} s", after.as_secs_f64());
            }
            node.wait_ready(|_| ())?;
        }
        let console = node.machine.console();
        for line in ["did not say for 60 s that it lives", "was unhealthy: 8 probes in a row failed"] {
            console.wait_for(line, 0, MINUTES)?;
        }
        let after = killer::running_pods(node)?;
        ensure(pods == after, || format!("pods restarted: before {pods:?}, after {after:?}"))?;
        Ok(killer.end()?)
    })
}

fn memory_hog() -> Outcome {
    with_node(|node| {
        let (services, pods) = (restarts(node)?, killer::running_pods(node)?);
        node.kubectl().apply(&pod("hog", "hog", ""))?;
        let status = wait_phase(node, "hog", &["Failed"])?;
        println!("the hog ended: {} {}", status["reason"], status["containerStatuses"][0]["state"]["terminated"]);
        delete(node, "hog")?;
        node.wait_ready(|_| ())?;
        unharmed(node, &services, &pods)?;
        if status["reason"] == "Evicted" {
            // kubelet tells of it after it has acted.
            wait::until("the node to tell of its pressure", MINUTES, || {
                if has_pressure(node)? { Ok(()) } else { Err("the node tells of none".to_owned()) }
            })?;
        }
        wait::until("the node without pressure", PRESSURE, || {
            if has_pressure(node)? { Err("the node has pressure".to_owned()) } else { Ok(()) }
        })?;
        Ok(())
    })
}

/// While kubelet says so, and five minutes longer (`evictionPressureTransitionPeriod`), the node takes no new pod.
fn has_pressure(node: &Node) -> Result<bool, String> {
    let name = node.machine.name();
    let nodes = node.kubectl().json(&["get", "nodes"]).map_err(|error| error.to_string())?;
    let first = nodes["items"].as_array().and_then(|nodes| nodes.first()).cloned().unwrap_or_default();
    if first.is_null() {
        Err(format!("{name} has no node"))
    } else {
        Ok(["DiskPressure", "MemoryPressure"].into_iter().any(|kind| condition_holds(&first, kind)))
    }
}

/// The store is on another file system: what is asked of the API server is answered all the time.
fn full_data() -> Outcome {
    with_node(|node| {
        let services = restarts(node)?;
        node.kubectl().apply(&pod("filler", "fill, /host/filler", "/var/lib"))?;
        let filled = wait::until("DATA to be full", MINUTES, || {
            // What a pod has said is gone with it when it is evicted.
            let log = node.kubectl().run(&["logs", "filler"]).unwrap_or_default();
            if log.contains("no room after") {
                Ok(log)
            } else if has_pressure(node)? {
                Ok("the node tells of pressure".to_owned())
            } else {
                Err(log)
            }
        })?;
        println!("{}", filled.trim());
        node.kubectl().run(&["create", "configmap", "written-while-full"])?;
        node.kubectl().run(&["delete", "configmap", "written-while-full"])?;
        wait_phase(node, "filler", &["Succeeded", "Failed"])?;
        delete(node, "filler")?;
        wait::until("the node without pressure and the web service answering", PRESSURE, || {
            if has_pressure(node)? { Err("the node has pressure".to_owned()) } else { web_answers(node) }
        })?;
        node.wait_ready(|_| ())?;
        node.wait_dns()?;
        let now = restarts(node)?;
        ensure(now == services, || format!("services restarted: before {services:?}, after {now:?}"))
    })
}

/// One ignores SIGTERM, and has ten minutes to do so. The other sleeps in the kernel for a file system that hangs, and cannot be killed.
fn stubborn_pods() -> Outcome {
    with_web(|node| {
        node.kubectl().apply(&pod_with_grace("stubborn", "stubborn", "", 600))?;
        node.kubectl().apply(&pod("hung", "hang, /host/hung", "/var/lib"))?;
        for name in ["stubborn", "hung"] {
            wait::until(&format!("pod {name} to wait"), MINUTES, || {
                let log = node.kubectl().run(&["logs", name]).map_err(|error| error.to_string())?;
                if log.contains("waiting for SIGKILL") { Ok(()) } else { Err(log) }
            })?;
        }
        let mark = node.machine.console().mark();
        let began = Instant::now();
        node.keelctl(&["reboot"])?;
        node.machine.console().wait_for("Linux version", mark, SHUTDOWN_DEADLINE)?;
        println!("down after {:.1} s", began.elapsed().as_secs_f64());
        let text = node.machine.console().text();
        let said = text.get(mark..).unwrap_or_default();
        for line in said.lines().filter(|line| line.contains("shutdown")) {
            println!("{}", line.trim());
        }
        let is_named = said.lines().any(|line| line.contains("workload (") && line.contains("state D"));
        ensure(is_named, || "what cannot be killed is not named with what it waits for".to_owned())?;
        node.wait_ready(|_| ())?;
        wait::until("the web service to answer again", MINUTES, || web_answers(node))?;
        ended(node, "reboot: ")?;
        node.kubectl().run(&["delete", "pod", "stubborn", "hung", "--force", "--grace-period=0"])?;
        Ok(())
    })
}

/// How the boot before this one is said to have ended.
fn ended(node: &Node, wanted: &str) -> Outcome {
    let ended =
        wait::until(&format!("keelctl boots to tell of {wanted:?}"), node.machine.speed().scale(MINUTES), || {
            let text = node.keelctl(&["boots", "-o", "json"]).map_err(|error| error.to_string())?;
            let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let ended = list["boots"][1]["ended"].as_str().unwrap_or_default().to_owned();
            if ended.contains(wanted) { Ok(ended) } else { Err(ended) }
        })?;
    println!("{ended}");
    Ok(())
}

/// A stopped PID 1 takes no signal that would wake it; its own cgroup's freezer stops it all the same.
fn frozen_init() -> Outcome {
    with_node(|node| {
        let mark = node.machine.console().mark();
        node.kubectl().apply(&pod("freezer", "write, /host/init/cgroup.freeze, \"1\"", "/sys/fs/cgroup"))?;
        let began = Instant::now();
        let deadline = node.machine.speed().scale(MINUTES);
        node.machine.console().wait_for("Linux version", mark, deadline)?;
        println!("reset after {:.1} s", began.elapsed().as_secs_f64());
        ended(node, "reset by the watchdog")
    })
}
