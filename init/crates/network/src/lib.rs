//! Links, addresses, DHCP, time: everything the node does to get on the network.
#![forbid(unsafe_code)]
