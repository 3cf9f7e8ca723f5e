//! The life of a cluster: it grows, loses what it may lose, and comes back.

use std::time::{Duration, Instant};

use keelson_vm::cluster::{CONTROL_PLANE, FIRST, WORKER, join_again, store_members};
use keelson_vm::killer::Killer;
use keelson_vm::kubectl::{condition_holds, text_at};
use keelson_vm::machine::create_disk;
use keelson_vm::node::Node;
use keelson_vm::qemu::Segment;
use keelson_vm::wait;
use keelson_vm::writer::Writer;
use libtest_mimic::Trial;

use crate::machines::{
    MINUTES, Nodes, everybody, founder, is_ready, joiner, node, node_mut, open, planes, wait_all_ready, wait_members,
    with_nodes,
};
use crate::shared::{Outcome, ensure, trial};
use crate::workload::{WEB, job_on};

/// kubelet's lease lasts 40 s; a node that lost its API server for good would be called not Ready after that.
const WATCHED: Duration = Duration::from_mins(1);

/// A client's between two writes.
const PAUSE: Duration = Duration::from_millis(300);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("control_planes_and_a_worker_join_and_no_write_fails", grows),
        trial("a_pod_reaches_a_service_on_another_node_by_its_name", across),
        trial("a_node_whose_api_server_is_killed_stays_ready", killed_api_server),
        trial("the_leaders_power_is_cut_under_load_and_nothing_is_lost", leader_cut),
        trial("a_removed_worker_joins_again_under_its_name", again),
        trial("the_first_node_is_reinstalled_founds_no_second_cluster_and_joins", reinstalled),
        trial("all_off_and_all_on_again_keeps_every_acknowledged_write", all_off),
        trial("a_month_switched_off_needs_nobody", month_off),
    ]
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn grows() -> Outcome {
    with_nodes(|nodes| {
        let mut first = founder("first")?;
        let started = Instant::now();
        first.machine.start()?;
        nodes.insert("first", first);
        let first = node(nodes, "first")?;
        first.pin_api()?;
        first.wait_ready(|_| ())?;
        println!("first is Ready after {:.1} s", seconds(started));

        let writer = Writer::start(&first.kubectl(), "growing", PAUSE)?;
        // One after the other: emulated, two that start at once starve all three. The store makes one change of it even so.
        for (name, number) in planes()?.iter().copied().zip(FIRST..).skip(1) {
            let mut plane = joiner(node(nodes, "first")?, CONTROL_PLANE, number, name)?;
            let started = Instant::now();
            plane.machine.start()?;
            nodes.insert(name, plane);
            node(nodes, "first")?.wait_member_ready(&node(nodes, name)?.machine)?;
            println!("{name} is Ready after {:.1} s", seconds(started));
        }
        let first = node(nodes, "first")?;
        wait_members(first)?;
        wait_all_ready(first, planes()?)?;
        for name in planes()?.iter().skip(1) {
            open(node(nodes, name)?)?;
        }

        let mut worker = joiner(first, WORKER, 11, "worker")?;
        let started = Instant::now();
        worker.machine.start()?;
        nodes.insert("worker", worker);
        let first = node(nodes, "first")?;
        wait_all_ready(first, &everybody()?)?;
        println!("the worker is Ready after {:.1} s", seconds(started));

        let written = writer.stop();
        println!(
            "{} writes were acknowledged meanwhile, at most {:.1} s apart",
            written.acknowledged.len(),
            written.longest_gap.as_secs_f64()
        );
        ensure(written.failures.is_empty(), || format!("writes failed: {:?}", written.failures))?;
        let lost = written.lost(&first.kubectl())?;
        ensure(lost.is_empty() && written.acknowledged.len() > 50, || format!("lost: {lost:?}"))
    })
}

fn across() -> Outcome {
    with_nodes(|nodes| {
        let first = node(nodes, "first")?;
        first.kubectl().apply(WEB)?;
        wait::until("the web Deployment to be available", MINUTES, || {
            let deployment = first.kubectl().json(&["get", "deployment", "web"]).map_err(|error| error.to_string())?;
            if condition_holds(&deployment, "Available") { Ok(()) } else { Err(deployment.to_string()) }
        })?;
        let pods = first.kubectl().json(&["get", "pods", "-l", "app=web"])?;
        let on = text_at(&pods, "/items/0/spec/nodeName").to_owned();
        for name in everybody()?.into_iter().filter(|name| *name != on) {
            reaches_web(first, name, &format!("web-from-{name}"))?;
            println!("from {name} the pod on {on} is reached");
        }
        Ok(())
    })
}

fn reaches_web(through: &Node, from: &str, name: &str) -> Outcome {
    let kubectl = through.kubectl();
    kubectl.apply(&job_on(from, name, &["get", "http://web.default.svc.cluster.local/env"]))?;
    let job = wait::until(&format!("job {name} to end"), MINUTES, || {
        let job = kubectl.json(&["get", "job", name]).map_err(|error| error.to_string())?;
        let ended = condition_holds(&job, "Complete") || condition_holds(&job, "Failed");
        if ended { Ok(job) } else { Err(job.to_string()) }
    })?;
    let answer = kubectl.run(&["logs", &format!("job/{name}")])?;
    kubectl.run(&["delete", "job", name, "--wait=false"])?;
    ensure(condition_holds(&job, "Complete") && answer.trim() == "from a config map", || {
        format!("from {from} it answered {answer:?}")
    })
}

fn killed_api_server() -> Outcome {
    with_nodes(|nodes| {
        let (first, second) = (node(nodes, "first")?, node(nodes, "second")?);
        let killer = Killer::start_through(first, second)?;
        let begun = Instant::now();
        let back = killer.kill("kube-apiserver")?;
        println!("second's API server is back after {:.1} s", back.as_secs_f64());
        while begun.elapsed() < WATCHED {
            ensure(is_ready(first, "second")?, || {
                format!("second is not Ready {:.0} s after the kill", seconds(begun))
            })?;
        }
        Ok(killer.end()?)
    })
}

/// Some machine's power is cut while a client writes through another's API server.
fn leader_cut() -> Outcome {
    with_nodes(|nodes| {
        let all = planes()?;
        if all.len() < 3 {
            println!(
                "this host carries no three control planes, and two do not outlive one of them: nothing to test, this test ends here"
            );
            return Ok(());
        }
        let leader = wait_members(node(nodes, "first")?)?;
        let other = all.iter().copied().find(|name| *name != leader).unwrap_or_default();
        let writer = Writer::start(&node(nodes, other)?.kubectl(), "failing-over", PAUSE)?;
        wait_for_writes(&writer, 20)?;
        node_mut(nodes, &leader)?.machine.cut_power()?;
        let so_far = writer.acknowledged();
        wait_for_writes(&writer, so_far + 20)?;
        let written = writer.stop();
        let failed = written.failures.len();
        println!(
            "{leader} was cut off: {} writes were acknowledged to {other}'s client, {failed} were not, at most {:.1} s apart",
            written.acknowledged.len(),
            written.longest_gap.as_secs_f64()
        );
        node_mut(nodes, &leader)?.machine.start()?;
        wait_members(node(nodes, other)?)?;
        wait_all_ready(node(nodes, other)?, &everybody()?)?;
        let lost = written.lost(&node(nodes, &leader)?.kubectl())?;
        ensure(lost.is_empty(), || format!("lost: {lost:?}"))
    })
}

fn wait_for_writes(writer: &Writer, count: usize) -> Outcome {
    wait::until(&format!("{count} acknowledged writes"), MINUTES, || match writer.acknowledged() {
        enough if enough >= count => Ok(()),
        fewer => Err(format!("{fewer} are acknowledged")),
    })?;
    Ok(())
}

/// Removes a node and waits until it has learnt it and, on the boot that follows, made its disk anew.
fn remove(nodes: &mut Nodes, through: &str, name: &str) -> Outcome {
    let removed = node(nodes, name)?;
    let mark = removed.machine.console().mark();
    node(nodes, through)?.keelctl(&["node", "remove", name])?;
    let deadline = removed.machine.speed().scale(MINUTES);
    removed.machine.console().wait_for("was removed from cluster", mark, deadline)?;
    removed.machine.console().wait_for("DATA was made anew", mark, deadline)?;
    Ok(node_mut(nodes, name)?.machine.cut_power()?)
}

fn again() -> Outcome {
    with_nodes(|nodes| {
        remove(nodes, "first", "worker")?;
        let mut worker = nodes.remove("worker").ok_or("the worker was not made")?;
        join_again(&mut worker.machine, node(nodes, "first")?, WORKER)?;
        let started = Instant::now();
        worker.machine.start()?;
        nodes.insert("worker", worker);
        wait_all_ready(node(nodes, "first")?, &everybody()?)?;
        println!("the worker is Ready again after {:.1} s", seconds(started));
        reaches_web(node(nodes, "first")?, "worker", "web-from-worker-again")
    })
}

/// As on its first day, but that its configuration names its peers; and then with a token.
fn reinstalled() -> Outcome {
    with_nodes(|nodes| {
        remove(nodes, "second", "first")?;
        wait_without_first(node(nodes, "second")?)?;
        let mut first = nodes.remove("first").ok_or("the first machine was not made")?;
        blank(&first)?;
        let words = first.machine.segment().map(Segment::words).unwrap_or_default();
        let peers: Vec<_> =
            planes()?.iter().zip(FIRST..).skip(1).map(|(_, number)| format!("10.75.0.{number}")).collect();
        let peers = peers.join(",");
        first.machine.change_hardware(|hardware| {
            hardware.command_line = format!(
                "keelson.role=control-plane keelson.name=first keelson.bootstrap keelson.peers={peers} {words}"
            );
        })?;
        first.machine.start()?;
        let deadline = first.machine.speed().scale(MINUTES);
        let said = first.machine.console().wait_for("belongs to a cluster", 0, deadline)?;
        println!("{}", said.trim());
        first.machine.cut_power()?;

        blank(&first)?;
        join_again(&mut first.machine, node(nodes, "second")?, CONTROL_PLANE)?;
        let started = Instant::now();
        first.machine.start()?;
        nodes.insert("first", first);
        wait_all_ready(node(nodes, "second")?, &everybody()?)?;
        wait_members(node(nodes, "second")?)?;
        println!("the reinstalled first node is Ready after {:.1} s", seconds(started));
        open(node(nodes, "first")?)
    })
}

fn blank(node: &Node) -> Outcome {
    Ok(create_disk(&node.machine.folder().join("disk.raw"), 16 << 10)?)
}

fn wait_without_first(through: &Node) -> Outcome {
    wait::until("the store to go on without first", MINUTES, || {
        let members = store_members(through).map_err(|error| error.to_string())?;
        let gone = members.iter().all(|member| member.node != "first");
        if gone && members.iter().any(|member| member.leads) { Ok(()) } else { Err(format!("{members:?}")) }
    })?;
    Ok(())
}

fn all_off() -> Outcome {
    with_nodes(|nodes| {
        let writer = Writer::start(&node(nodes, "second")?.kubectl(), "before-all-off", PAUSE)?;
        wait_for_writes(&writer, 50)?;
        let written = writer.stop();
        for node in nodes.values_mut() {
            node.machine.cut_power()?;
        }
        let started = Instant::now();
        for node in nodes.values_mut() {
            node.machine.start()?;
        }
        let second = node(nodes, "second")?;
        wait_all_ready(second, &everybody()?)?;
        println!("all are Ready {:.1} s after the power came back", seconds(started));
        let lost = written.lost(&second.kubectl())?;
        ensure(lost.is_empty(), || format!("lost: {lost:?}"))
    })
}

/// Beyond every leaf's life, which is a week.
const DAYS_OFF: u32 = 35;

/// Of all nodes every certificate but the authorities' has run out, and so has the operator's. From here on the disks know the later date:
/// the machines are not started again.
fn month_off() -> Outcome {
    with_nodes(|nodes| {
        let writer = Writer::start(&node(nodes, "second")?.kubectl(), "before-a-month-off", PAUSE)?;
        wait_for_writes(&writer, 20)?;
        let written = writer.stop();
        for node in nodes.values_mut() {
            node.machine.cut_power()?;
            node.machine.change_hardware(|hardware| hardware.days_ahead = Some(DAYS_OFF))?;
        }
        let started = Instant::now();
        for node in nodes.values_mut() {
            node.machine.start()?;
        }
        let second = node(nodes, "second")?;
        second.pin_api()?;
        wait::until("keelctl to be let in and to get a kubeconfig", MINUTES, || {
            second.keelctl(&["status"]).and_then(|_| second.fetch_kubeconfig()).map_err(|error| error.to_string())
        })?;
        wait_members(second)?;
        wait_all_ready(second, &everybody()?)?;
        println!("a month later all are Ready after {:.1} s", seconds(started));
        let lost = written.lost(&second.kubectl())?;
        ensure(lost.is_empty(), || format!("lost: {lost:?}"))?;
        reaches_web(second, "worker", "web-a-month-later")
    })
}
