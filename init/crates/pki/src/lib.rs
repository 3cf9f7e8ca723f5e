//! Authorities, certificates and kubeconfigs.
#![forbid(unsafe_code)]
