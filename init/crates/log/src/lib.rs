//! The services' output: rings, files, queries.
#![forbid(unsafe_code)]

pub mod query;
pub mod service;
