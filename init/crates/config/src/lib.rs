//! Kernel command line and metadata, read into a valid NodeConfig.
#![forbid(unsafe_code)]
