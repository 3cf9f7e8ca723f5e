//! The life of one machine: boot, work, kills, reboot, power cut, power button.

use std::path::Path;
use std::time::{Duration, Instant};

use keelson_vm::cluster::{self, Pace};
use keelson_vm::commands::image_disk;
use keelson_vm::killer::{self, Killer};
use keelson_vm::kubectl::{self, Kubectl, condition_holds};
use keelson_vm::machine::{Machine, SHUTDOWN_DEADLINE, create_disk};
use keelson_vm::nbd::PowerCutDisk;
use keelson_vm::node::{Forward, Node};
use keelson_vm::qemu::{Card, Disk, Hardware, Network, Ports};
use keelson_vm::wait;
use keelson_vm::writer::Writer;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::shared::{Build, Outcome, build, ensure, shared_node, trial, with_node};
use crate::workload::{WEB, job, job_on};

/// For things that take seconds on an idle emulated node.
const MINUTES: Duration = Duration::from_mins(4);

/// What stands in the token that the machine is given: no such text may be found anywhere.
const TOKEN: &str = "keelson1.dGhpcyBpcyBubyBjbHVzdGVycyB0b2tlbg";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("boots_to_ready_and_dns_answers", boots),
        trial("a_deployment_answers_by_cluster_ip_dns_and_node_port", deployment),
        trial("logs_exec_and_port_forward_work", streams),
        trial("a_job_completes", job_completes),
        trial("the_operator_sees_status_nodes_services_and_logs", operator),
        trial("the_token_is_in_no_log_console_or_argument", token_is_nowhere),
        trial("a_worker_joins_by_a_token_serves_and_is_removed", worker),
        trial("killed_services_come_back_and_no_pod_restarts", kills),
        trial("a_reboot_keeps_all_objects", reboot),
        trial("a_power_cut_loses_no_acknowledged_write", power_cut),
    ]
}

/// What turns the machine off: behind all else.
pub(crate) fn ends() -> Vec<Trial> {
    vec![trial("the_power_button_shuts_down_in_order", power_button)]
}

/// What its disk remembers: behind the end. A boot more, so by name only.
pub(crate) fn afterlife() -> Vec<Trial> {
    vec![trial("a_month_switched_off_needs_nobody", month_off)]
}

/// The disk of the shared machine is served for as long as the suite runs.
fn power_cut_disk(folder: &Path) -> Result<&'static PowerCutDisk, Failed> {
    static DISK: std::sync::OnceLock<PowerCutDisk> = std::sync::OnceLock::new();
    if let Some(disk) = DISK.get() {
        return Ok(disk);
    }
    let file = folder.join("disk.raw");
    create_disk(&file, 16 << 10)?;
    let disk = PowerCutDisk::serve(&file, &folder.join("disk.sock"))?;
    Ok(DISK.get_or_init(|| disk))
}

fn create_machine(build: &Build, folder: &Path) -> Result<Machine, Failed> {
    let disk = power_cut_disk(folder)?;
    let images = image_disk(folder, std::slice::from_ref(&build.image.workload))?;
    let operator_key = build.tools.generate_key(&Node::operator_key(folder))?;
    let mut disks = vec![Disk { file: disk.qemu_file(), ..Disk::from_file(Path::new(""), "keelson") }];
    disks.extend(images);
    let mut hardware = Hardware {
        processors: 2,
        memory_mib: 3072,
        kernel: build.image.kernel.clone(),
        initramfs: build.image.initramfs.clone(),
        command_line: format!(
            "keelson.role=control-plane keelson.bootstrap keelson.peers=none keelson.name=first keelson.token={TOKEN}"
        ),
        smbios: vec![operator_key],
        fw_cfg: vec![],
        disks,
        network: Network::User(Ports::free()?),
        card: Card::default(),
        firmware: None,
        days_ahead: None,
    };
    cluster::found(&mut hardware, folder, Pace::Usual)?;
    Ok(Machine::create(folder, hardware, build.speed)?)
}

fn boots() -> Outcome {
    let build = build()?;
    let folder = build.machine_folder("first")?;
    let mut machine = create_machine(build, &folder)?;
    let started = Instant::now();
    machine.start()?;
    let node = Node::new(machine, build.tools.clone());
    let up = wait_until_up(&node, started);
    // The later tests say what they miss; the machine stays for the console's sake.
    *shared_node() = Some(node);
    up
}

fn wait_until_up(node: &Node, started: Instant) -> Outcome {
    node.pin_api()?;
    println!("the cluster manager answers after {:.1} s", started.elapsed().as_secs_f64());
    node.wait_ready(|_| ())?;
    println!("Ready after {:.1} s", started.elapsed().as_secs_f64());
    let address = node.wait_dns()?;
    println!("DNS answers after {:.1} s", started.elapsed().as_secs_f64());
    ensure(address.octets() == [10, 96, 0, 1], || format!("kubernetes.default is said to be {address}"))
}

fn deployment() -> Outcome {
    with_node(|node| {
        node.kubectl().apply(WEB)?;
        wait_for_web(node)?;
        let services = node.kubectl().json(&["get", "service", "web"])?;
        let address = services["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        let answer = run_job(node, "by-address", &["get", &format!("http://{address}/env")])?;
        ensure(answer.trim() == "from a config map", || format!("by ClusterIP it answered {answer:?}"))?;
        let answer = run_job(node, "by-name", &["get", "http://web.default.svc.cluster.local/env"])?;
        ensure(answer.trim() == "from a config map", || format!("by name it answered {answer:?}"))?;
        answers_by_node_port(node)
    })
}

/// From outside the machine, through a port that QEMU forwards to the node port.
fn answers_by_node_port(node: &Node) -> Outcome {
    let port = Ports::free()?.cluster;
    // kube-proxy serves node ports on the address that the node is known by.
    let Network::Segment { segment, .. } = node.machine.hardware().network else {
        return Err("the machine is on no segment".into());
    };
    let command = format!("hostfwd_add net tcp:127.0.0.1:{port}-{}:30080", segment.address());
    node.machine.qmp("human-monitor-command", &json!({ "command-line": command }))?;
    let answer = wait::until("the node port to answer", MINUTES, || {
        ureq::get(format!("http://127.0.0.1:{port}/env"))
            .call()
            .and_then(|mut answer| answer.body_mut().read_to_string())
            .map_err(|error| error.to_string())
    })?;
    ensure(answer.trim() == "from a config map", || format!("by node port it answered {answer:?}"))
}

pub(crate) fn wait_for_web(node: &Node) -> Outcome {
    wait::until("the web Deployment to be available", MINUTES, || {
        let deployment = node.kubectl().json(&["get", "deployment", "web"]).map_err(|error| error.to_string())?;
        if condition_holds(&deployment, "Available") {
            return Ok(());
        }
        let pods = node.kubectl().run(&["get", "pods", "-A"]).map_err(|error| error.to_string())?;
        Err(pods)
    })?;
    Ok(())
}

/// Runs the workload to its end in a pod and returns what it printed.
pub(crate) fn run_job(node: &Node, name: &str, arguments: &[&str]) -> Result<String, Failed> {
    run_manifest(node, name, &job(name, arguments, false))
}

fn run_manifest(node: &Node, name: &str, manifest: &str) -> Result<String, Failed> {
    node.kubectl().apply(manifest)?;
    wait::until(&format!("job {name} to complete"), MINUTES, || {
        let job = node.kubectl().json(&["get", "job", name]).map_err(|error| error.to_string())?;
        if condition_holds(&job, "Complete") || condition_holds(&job, "Failed") {
            return Ok(());
        }
        Err(job["status"].to_string())
    })?;
    let output = node.kubectl().run(&["logs", &format!("job/{name}")])?;
    let job = node.kubectl().json(&["get", "job", name])?;
    node.kubectl().run(&["delete", "job", name, "--wait=false"])?;
    if condition_holds(&job, "Complete") { Ok(output) } else { Err(format!("job {name} failed: {output}").into()) }
}

fn streams() -> Outcome {
    with_node(|node| {
        let kubectl = node.kubectl();
        let log = kubectl.run(&["logs", "deployment/web"])?;
        ensure(log.contains("serving on :8080"), || format!("the log is {log:?}"))?;
        let said = kubectl.run(&["exec", "deployment/web", "--", "/workload", "echo", "hello"])?;
        ensure(said.trim() == "hello", || format!("exec printed {said:?}"))?;
        let forward = Forward::open(&kubectl, "default", "deployment/web", 8080)?;
        let answer = ureq::get(format!("http://{}/env", forward.address)).call()?.body_mut().read_to_string()?;
        ensure(answer.trim() == "from a config map", || format!("through the forward it answered {answer:?}"))
    })
}

fn job_completes() -> Outcome {
    with_node(|node| {
        let output = run_job(node, "once", &["echo", "done"])?;
        ensure(output.trim() == "done", || format!("the job printed {output:?}"))
    })
}

fn operator() -> Outcome {
    with_node(|node| {
        let status: Value = serde_json::from_str(&node.keelctl(&["status", "-o", "json"])?)?;
        ensure(status["ready"] == true && status["name"] == "first", || format!("status says {status}"))?;
        let nodes = node.keelctl(&["nodes"])?;
        ensure(nodes.contains("first") && nodes.contains("control-plane"), || format!("nodes says {nodes}"))?;
        let log = node.keelctl(&["logs", "kubelet", "--lines", "50"])?;
        ensure(log.lines().count() > 10, || format!("the kubelet's log is {log:?}"))?;
        for service in services(node)? {
            let well = matches!(service["state"].as_str(), Some("ready" | "done"));
            ensure(well && service["restarts"] == 0, || format!("a service has had trouble: {service}"))?;
        }
        Ok(())
    })
}

fn services(node: &Node) -> Result<Vec<Value>, Failed> {
    let services = killer::services(node)?;
    ensure(services.len() >= 10, || format!("only these services are listed: {services:?}"))?;
    Ok(services)
}

/// Where a token could leak: the console, every service's log, every process's arguments, and the kernel command line
/// as a pod sees it.
fn token_is_nowhere() -> Outcome {
    with_node(|node| {
        let absent = |place: &str, text: &str| ensure(!text.contains(TOKEN), || format!("the token is in {place}"));
        absent("the console", &node.machine.console().text())?;
        for service in services(node)? {
            let name = service["name"].as_str().unwrap_or_default().to_owned();
            absent(&format!("the log of {name}"), &node.keelctl(&["logs", &name, "--lines", "100000"])?)?;
        }
        let arguments = run_manifest(node, "arguments", &job("arguments", &["processes"], true))?;
        ensure(arguments.contains("kube-apiserver"), || format!("the pod saw only {arguments:?}"))?;
        absent("a process's arguments", &arguments)?;
        let command_line = run_job(node, "command-line", &["cat", "/proc/cmdline"])?;
        ensure(command_line.contains("keelson.role="), || format!("/proc/cmdline is {command_line:?}"))?;
        absent("/proc/cmdline", &command_line)
    })
}

/// It runs pods, and what is removed is gone for good.
fn worker() -> Outcome {
    let build = build()?;
    with_node(|node| {
        let folder = build.machine_folder("second")?;
        let mut machine = cluster::joiner(node, "worker", 2, &folder, 8 << 10)?;
        machine.change_hardware(|hardware| {
            hardware.processors = 1;
            hardware.memory_mib = 1536;
            hardware.disks.extend(node.machine.hardware().disks.get(1).cloned());
        })?;
        let started = Instant::now();
        machine.start()?;
        let outcome = serves_and_is_removed(node, &machine, started);
        machine.cut_power()?;
        outcome
    })
}

fn serves_and_is_removed(node: &Node, machine: &Machine, started: Instant) -> Outcome {
    node.wait_member_ready(machine)?;
    println!("the worker is Ready after {:.1} s", started.elapsed().as_secs_f64());
    let manifest = job_on("second", "on-second", &["echo", "from the worker"]);
    let answer = run_manifest(node, "on-second", &manifest)?;
    ensure(answer.trim() == "from the worker", || format!("on the worker it printed {answer:?}"))?;
    reaches_pods_of_another_node(node)?;
    wait_for_dns_on(node, &["first", "second"])?;
    node.keelctl(&["node", "remove", "second"])?;
    let nodes = node.kubectl().run(&["get", "nodes", "-o", "name"])?;
    ensure(!nodes.contains("second"), || format!("after the removal there are {nodes}"))?;
    let deadline = node.machine.speed().scale(MINUTES);
    machine.console().wait_for("was removed from cluster", 0, deadline)?;
    wait_for_dns_on(node, &["first"])
}

/// A replica of cluster DNS on each of these nodes, which are named in order, and no other.
fn wait_for_dns_on(node: &Node, wanted: &[&str]) -> Outcome {
    let awaited = format!("cluster DNS on {}", wanted.join(" and "));
    wait::until(&awaited, node.machine.speed().scale(MINUTES), || {
        let pods = node.kubectl().json(&["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns"]);
        let pods = pods.map_err(|error| error.to_string())?;
        let mut on: Vec<_> = kubectl::array_at(&pods, "/items")
            .iter()
            .map(
                |pod| if condition_holds(pod, "Ready") { kubectl::text_at(pod, "/spec/nodeName") } else { "not ready" },
            )
            .collect();
        on.sort_unstable();
        if on == wanted { Ok(()) } else { Err(on.join(", ")) }
    })?;
    Ok(())
}

/// By the Service's name, which is asked of a DNS server on the other node too, and under the pod's own address.
fn reaches_pods_of_another_node(node: &Node) -> Outcome {
    node.kubectl().apply(WEB)?;
    wait_for_web(node)?;
    let get = |name: &str, path: &str| {
        let url = format!("http://web.default.svc.cluster.local/{path}");
        run_manifest(node, name, &job_on("second", name, &["get", &url]))
    };
    let answer = get("across", "env")?;
    ensure(answer.trim() == "from a config map", || format!("from another node it answered {answer:?}"))?;
    let peer = get("across-peer", "peer")?;
    let object = node.kubectl().json(&["get", "node", "second"])?;
    let range = kubectl::text_at(&object, "/spec/podCIDR").trim_end_matches("0/24").to_owned();
    ensure(!range.is_empty() && peer.trim().starts_with(&range), || {
        format!("the pod saw {peer:?} as the sender, which is none of the range {range}0/24")
    })
}

fn kills() -> Outcome {
    with_node(|node| {
        let killer = Killer::start(node)?;
        let before = killer::running_pods(node)?;
        ensure(before.len() > 1, || format!("too few pods run: {before:?}"))?;
        for service in services(node)? {
            let name = service["name"].as_str().unwrap_or_default();
            println!("{name}: killed, and back to ready in {:.1} s", killer.kill(name)?.as_secs_f64());
        }
        node.wait_ready(|_| ())?;
        node.wait_dns()?;
        let after = killer::running_pods(node)?;
        ensure(before == after, || format!("pods restarted: before {before:?}, after {after:?}"))?;
        Ok(killer.end()?)
    })
}

/// Names and UIDs of what must survive.
fn objects(node: &Node) -> Result<Vec<String>, Failed> {
    let list = node.kubectl().json(&["get", "deployments,services,configmaps,namespaces,nodes", "-A"])?;
    let mut all: Vec<String> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|object| format!("{} {} {}", object["kind"], object["metadata"]["name"], object["metadata"]["uid"]))
        .collect();
    all.sort();
    ensure(all.len() > 10, || format!("too few objects: {all:?}"))?;
    Ok(all)
}

fn reboot() -> Outcome {
    with_web(|node| {
        let before = objects(node)?;
        let mark = node.machine.console().mark();
        let started = Instant::now();
        node.keelctl(&["reboot"])?;
        node.machine.console().wait_for("Linux version", mark, SHUTDOWN_DEADLINE)?;
        println!("down after {:.1} s", started.elapsed().as_secs_f64());
        back_with_everything(node, &before, Instant::now())?;
        first_boot_is_told(node)
    })
}

/// All of it, now that it is over.
fn first_boot_is_told(node: &Node) -> Outcome {
    let boot: Value = serde_json::from_str(&node.keelctl(&["boots", "1", "-o", "json"])?)?;
    let phases = boot["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<_> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    ensure(names.len() > 10 && names.last() == Some(&"services"), || format!("these are its phases: {names:?}"))?;
    let ended = boot["ended"].as_str().unwrap_or_default();
    ensure(ended.starts_with("reboot"), || format!("it is said to have ended so: {ended:?}"))?;
    let image = boot["image"].as_str().unwrap_or_default();
    ensure(image.len() == 64, || format!("its root hash is told as {image:?}"))?;
    let messages = boot["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure(!messages.is_empty(), || "none of the kernel's last messages was kept".to_owned())
}

fn back_with_everything(node: &Node, before: &[String], started: Instant) -> Outcome {
    node.wait_ready(|_| ())?;
    println!("Ready again after {:.1} s", started.elapsed().as_secs_f64());
    wait_for_web(node)?;
    node.wait_dns()?;
    let after = objects(node)?;
    let lost: Vec<&String> = before.iter().filter(|object| !after.contains(object)).collect();
    ensure(lost.is_empty(), || format!("lost: {lost:?}"))
}

fn power_cut() -> Outcome {
    with_node(|node| {
        let before = objects(node)?;
        let writer = Writer::start(&node.kubectl(), "written", Duration::ZERO)?;
        wait::until("fifty acknowledged writes", MINUTES, || match writer.acknowledged() {
            50.. => Ok(()),
            fewer => Err(format!("{fewer} are acknowledged")),
        })?;
        let disk = power_cut_disk(node.machine.folder())?;
        let seed = 0x6b65_656c_736f_6e01;
        // The disk stops first, and answers nothing from then on: nobody is told that a write is safe after this moment.
        disk.cut_amid_writes(seed);
        let cut = wait::until("a moment at which a power cut loses something", MINUTES, || {
            disk.cut().ok_or_else(|| "all is flushed".to_owned())
        })?;
        node.machine.cut_power()?;
        let written = writer.stop();
        println!("power cut with seed {seed:#x}: {cut:?}; {} writes were acknowledged", written.acknowledged.len());
        disk.restore_power();
        let started = Instant::now();
        node.machine.start()?;
        node.pin_api()?;
        back_with_everything(node, &before, started)?;
        let lost = written.lost(&node.kubectl())?;
        ensure(lost.is_empty(), || format!("{} acknowledged writes are lost: {lost:?}", lost.len()))
    })
}

fn power_button() -> Outcome {
    with_node(power_off)
}

fn power_off(node: &mut Node) -> Outcome {
    let pressed = Instant::now();
    node.machine.press_power_button()?;
    node.machine.wait_until_off(SHUTDOWN_DEADLINE)?;
    println!("off after {:.1} s", pressed.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `test` with the shared machine up and the web service answering, whatever ran before.
pub(crate) fn with_web(test: impl FnOnce(&mut Node) -> Outcome) -> Outcome {
    if shared_node().is_none() {
        boots()?;
    }
    with_node(|node| {
        if !node.machine.is_running() {
            node.machine.start()?;
            node.pin_api()?;
        }
        node.wait_ready(|_| ())?;
        node.kubectl().apply(WEB)?;
        wait_for_web(node)?;
        test(node)
    })
}

/// Beyond every leaf's life, which is a week.
const DAYS_OFF: u32 = 35;

/// Every certificate but the authorities' has run out, the operator's two among them. From here on the disk knows the later date,
/// and this host would take certificates that begin then for ones of the future: the machine is not started again.
fn month_off() -> Outcome {
    with_web(|node| {
        let before = objects(node)?;
        power_off(node)?;
        let expired = node.machine.folder().join("kubeconfig-of-last-month");
        std::fs::rename(node.kubeconfig(), &expired)?;
        node.machine.change_hardware(|hardware| hardware.days_ahead = Some(DAYS_OFF))?;
        let started = Instant::now();
        node.machine.start()?;
        node.pin_api()?;
        // Its certificate is refused, so keelctl proves the operator's key once more.
        wait::until("keelctl to be let in", MINUTES, || {
            node.keelctl(&["status"]).map(drop).map_err(|error| error.to_string())
        })?;
        back_with_everything(node, &before, started)?;
        let refused = Kubectl { kubeconfig: expired, ..node.kubectl() }.run(&["get", "nodes"]);
        ensure(refused.is_err(), || format!("a certificate of last month is taken: {refused:?}"))?;
        let answer = run_job(node, "a-month-later", &["get", "http://web.default.svc.cluster.local/env"])?;
        ensure(answer.trim() == "from a config map", || format!("a month later it answered {answer:?}"))?;
        power_off(node)
    })
}
