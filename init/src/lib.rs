//! The parts of PID 1 that run without being PID 1: what it supervises, how, and how that ends.
//!
//! The `init` program adds what only a booting machine has: disks, mounts, console, recovery.
#![forbid(unsafe_code)]

pub mod buttons;
pub mod process;
pub mod services;
pub mod shutdown;
pub mod supervisor;
