//! A service's name: also its cgroup's and its log file's, hence the narrow alphabet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name. It appears in console lines and paths.
const NAME_MAX: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

impl ServiceName {
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidServiceName> {
        let name = name.into();
        let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
        let ends_well = !name.ends_with('-');
        let alphabet = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if starts_well && ends_well && alphabet && name.len() <= NAME_MAX {
            Ok(Self(name))
        } else {
            Err(InvalidServiceName { name })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("service name {name:?} is not 1 to {NAME_MAX} lower-case letters, digits and inner dashes after a letter")]
pub struct InvalidServiceName {
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = InvalidServiceName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidServiceName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_names_of_our_services() {
        for name in ["network", "kube-apiserver", "a", "x9"] {
            assert_eq!(ServiceName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_would_not_be_a_plain_file_name() {
        let long = "a".repeat(NAME_MAX + 1);
        for name in ["", ".", "..", "a/b", "A", "9a", "-a", "a-", "a b", "a\n", long.as_str()] {
            assert!(ServiceName::new(name).is_err(), "{name:?} was accepted");
        }
    }
}
