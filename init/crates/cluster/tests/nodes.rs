//! Nodes as processes in network namespaces: the real manager and proxy in each, keelson-store and an unmodified
//! kube-apiserver on the control plane. kubelet and containerd are not there; what they would do with their certificates is
//! done by the test. Needs root, and the Kubernetes program in `KEELSON_KUBERNETES`.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "nodes/init.rs"]
mod init;
#[cfg(test)]
#[path = "nodes/process.rs"]
mod process;
#[cfg(test)]
#[path = "nodes/world.rs"]
mod world;

#[cfg(test)]
#[path = "nodes/cases.rs"]
mod cases;
