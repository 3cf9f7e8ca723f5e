//! DHCPv6 (RFC 8415): a client per link, if the link's routers ask for one.
//!
//! [`machine`] is the protocol without I/O and without a clock; [`message`] turns its messages into bytes and back, and is where
//! packets from strangers are parsed; [`socket`] sends and receives them.

pub mod machine;
pub mod message;
pub mod socket;

pub use machine::{Client, Command, Event, Lease, Mode};
pub use message::{Identity, Information, Message};
