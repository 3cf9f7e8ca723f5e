//! Values that must not be seen: they print as `[redacted]` and cannot be serialised by accident.

use std::collections::BTreeMap;
use std::fmt;

/// A text that no log, console, argument or serialised configuration may carry.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one file or request that it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// User name and password for one registry host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryCredential {
    pub username: String,
    pub password: Secret,
}

/// All secrets that the sources gave, beside the [`crate::NodeConfig`] and never in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    pub token: Option<Secret>,
    /// By registry host.
    pub registry_credentials: BTreeMap<String, RegistryCredential>,
}
