//! DHCPv4 (RFC 2131): a client per link.
//!
//! [`machine`] is the protocol without I/O and without a clock; [`message`] and [`frame`] turn its messages into bytes
//! and back, and are where packets from strangers are parsed; [`socket`] sends and receives them.

pub mod frame;
pub mod lease;
pub mod machine;
pub mod message;
pub mod socket;

pub use lease::{Lease, LeaseRoute};
pub use machine::{Client, Command, Destination, Event};
