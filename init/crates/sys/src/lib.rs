//! The system calls that PID 1 and its helpers need; the one crate with unsafe code.
//!
//! Wrappers are thin: one call, one function, plain values in and out, errors as the kernel gave them. nix comes first,
//! rustix where nix lacks the call, raw libc last. What a failure means is for the caller to say.
//!
//! Every unsafe block has a `SAFETY` line (the invariant and who upholds it) and a `JUSTIFICATION` line (why no safe call
//! would do).

#![expect(unsafe_code, reason = "this is the one crate that may; all others forbid it")]

pub mod block;
pub mod clock;
pub mod descriptor;
pub mod device_mapper;
pub mod entropy;
pub mod ext4;
pub mod loopback;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod packet;
pub mod partition;
pub mod poller;
pub mod power;
pub mod process;
pub mod reaper;
pub mod seccomp;
pub mod signals;
pub mod watchdog;
