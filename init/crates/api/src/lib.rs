//! Types of the cluster manager's API, shared with keelctl.
#![forbid(unsafe_code)]
