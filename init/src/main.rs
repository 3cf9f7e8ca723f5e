//! PID 1: finds the root, boots by named phases, supervises services.
#![forbid(unsafe_code)]

fn main() {}
