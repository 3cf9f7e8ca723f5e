//! Links, addresses, DHCP, time: everything the node does to get on the network.
//!
//! keelson-network is a process of its own because it parses packets from strangers. It runs as uid 64003 with the
//! network capabilities and `CAP_SYS_TIME`, reads `/run/keelson/config/node.json`, and reports in
//! `/run/keelson/network/`: `state.json` (`keelson_config::network_state`), `resolv.conf` and its leases. It alone
//! writes links, addresses and routes; nftables belongs to others.
//!
//! How it flows: the kernel's messages change a view ([`links`]); a pure function lays the configuration over it
//! ([`plan`]); each link that is ours is a [`port`] with, perhaps, a DHCP client, whose protocol is a state machine
//! ([`dhcp::machine`]); after each event another pure function composes what is published ([`state`]).
//!
//! Invariants:
//! - Links that are not planned for are never touched: pods' links belong to the CNI plugins.
//! - Stopping takes nothing away. A daemon that starts finds addresses and leases of the one before and goes on.
//! - Nothing here waits for anything in line: no carrier, no answer and no time server are states, said at growing
//!   intervals, and the loop goes on.
//! - The clock is never set below the floor, and its being unsynchronised holds nothing up.
//!
//! The ways to other nodes' pods are made beside all that, from what keelson-cluster asks for ([`pods`]); so are connections of removed
//! nodes cut ([`cut`]), and so does the cluster's virtual address come to this node and go ([`virtual_address`]). IPv6 addresses and default
//! routes from router advertisements are the kernel's work ([`advertisements`] asks it for them on the links that are configured by
//! DHCP), resolvers from there are heard of it, and where routers ask for DHCPv6 it is done ([`dhcp6`]).
#![forbid(unsafe_code)]

pub mod advertisements;
pub mod cut;
pub mod daemon;
pub mod dhcp;
pub mod dhcp6;
pub mod domains;
pub mod files;
pub mod kernel;
pub mod links;
pub mod plan;
pub mod pods;
pub mod port;
pub mod resolver;
pub mod say;
pub mod sntp;
pub mod state;
pub mod virtual_address;
pub mod waiting;
