//! The services' output: rings, files, queries.
#![forbid(unsafe_code)]
