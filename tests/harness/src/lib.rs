//! Builds the operating system and runs it in QEMU: a library for the VM tests, and the tool behind `cargo vm`.
//!
//! From sources to a node: [`build`] makes the files that boot, [`qemu`] starts a machine from them, [`machine`] keeps
//! it, [`node`] is its operator's view, [`commands`] are the verbs that put these together.
#![forbid(unsafe_code)]

pub mod bench;
pub mod build;
pub mod cluster;
pub mod commands;
pub mod console;
pub mod dns;
pub mod firmware;
pub mod killer;
pub mod kubectl;
pub mod machine;
pub mod nbd;
pub mod node;
pub mod project;
pub mod proxy;
pub mod qemu;
pub mod qmp;
pub mod report;
pub mod wait;
pub mod writer;
