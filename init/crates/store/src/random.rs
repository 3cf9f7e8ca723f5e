//! Where random numbers come from, as a trait: a simulation must be able to repeat them.

use std::fmt::Debug;

pub trait Random: Debug + Send + Sync + 'static {
    fn next_u64(&self) -> u64;
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        // Fails only where the kernel has no generator at all; a process without randomness must not choose ids.
        match getrandom::fill(&mut bytes) {
            Ok(()) => u64::from_ne_bytes(bytes),
            Err(error) => {
                tracing::error!(%error, "the system gives no random numbers");
                std::process::abort()
            }
        }
    }
}
