//! Child set-up before each service, and the bounded place where foreign bytes are parsed.
#![forbid(unsafe_code)]

fn main() {}
