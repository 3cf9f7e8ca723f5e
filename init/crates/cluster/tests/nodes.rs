//! Nodes as processes in network namespaces: the real manager and proxy in each, keelson-store and an unmodified
//! kube-apiserver on the control plane. kubelet and containerd are not there; what they would do with their certificates is
//! done by the test. Needs root; where Kubernetes is part of a test, its program in `KEELSON_KUBERNETES`, and a test that has none
//! says so and ends. `tests/suites/cluster.rs` gives it the one of the image's build and does not accept that.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "nodes/cut.rs"]
mod cut;
#[cfg(test)]
#[path = "nodes/init.rs"]
mod init;
#[cfg(test)]
#[path = "nodes/process.rs"]
mod process;
#[cfg(test)]
#[path = "nodes/stand_in.rs"]
mod stand_in;
#[cfg(test)]
#[path = "nodes/world.rs"]
mod world;
#[cfg(test)]
#[path = "nodes/writer.rs"]
mod writer;

#[cfg(test)]
#[path = "nodes/cases.rs"]
mod cases;
#[cfg(test)]
#[path = "nodes/configuration.rs"]
mod configuration;
#[cfg(test)]
#[path = "nodes/control_planes.rs"]
mod control_planes;
#[cfg(test)]
#[path = "nodes/dual_stack.rs"]
mod dual_stack;
#[cfg(test)]
#[path = "nodes/expired.rs"]
mod expired;
#[cfg(test)]
#[path = "nodes/features.rs"]
mod features;
#[cfg(test)]
#[path = "nodes/founding.rs"]
mod founding;
#[cfg(test)]
#[path = "nodes/growth.rs"]
mod growth;
#[cfg(test)]
#[path = "nodes/moved.rs"]
mod moved;
#[cfg(test)]
#[path = "nodes/operators.rs"]
mod operators;
#[cfg(test)]
#[path = "nodes/planned.rs"]
mod planned;
#[cfg(test)]
#[path = "nodes/power.rs"]
mod power;
#[cfg(test)]
#[path = "nodes/rotated.rs"]
mod rotated;
#[cfg(test)]
#[path = "nodes/virtual_address.rs"]
mod virtual_address;
