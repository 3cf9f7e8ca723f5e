//! The proxy as its clients see it, with API servers that die, stall, vanish and are never ready.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "support/api_server.rs"]
mod api_server;
#[cfg(test)]
#[path = "support/world.rs"]
mod world;

#[cfg(test)]
#[path = "support/cases.rs"]
mod cases;
