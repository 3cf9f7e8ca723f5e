//! The cluster manager: identity, certificates, settings and services of a node.
#![forbid(unsafe_code)]
