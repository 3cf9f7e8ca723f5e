//! The name of a service, and the packet by which PID 1 announces a service's pipe.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The environment variable that names the inherited socket on which PID 1 sends the pipes.
pub const ANNOUNCEMENT_FD_VARIABLE: &str = "KEELSON_LOG_FD";

/// The longest packet that PID 1 sends: a name of at most [`NAME_BYTES_MAX`] in a JSON object.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 256;

/// A DNS label's length. Names become file names, so a bound below the file system's 255 bytes is needed anyway.
pub const NAME_BYTES_MAX: usize = 63;

/// The kernel's log, read from /dev/kmsg.
pub const KERNEL: &str = "kernel";

/// One packet from PID 1; the file descriptor to read travels beside it (`SCM_RIGHTS`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    pub service: ServiceName,
}

/// A service's name: lower-case letters, digits and inner hyphens. It names files, so nothing else is let in.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a service's name: it takes 1 to 63 lower-case letters, digits and inner hyphens")]
pub struct NameError(String);

impl ServiceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_kernel(&self) -> bool {
        self.0 == KERNEL
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if valid { Ok(Self(name)) } else { Err(NameError(name)) }
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_could_leave_the_directory() {
        for name in ["", ".", "..", "a/b", "../passwd", "A", "-a", "a-", "a b", "a\0", "ü", &"a".repeat(64)] {
            assert!(ServiceName::try_from(name.to_owned()).is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn accepts_the_names_in_use() {
        for name in ["kernel", "kube-apiserver", "log", "a", "containerd2"] {
            assert_eq!(ServiceName::try_from(name.to_owned()).expect(name).as_str(), name);
        }
    }

    #[test]
    fn an_announcement_with_an_unknown_field_is_refused() {
        serde_json::from_str::<Announcement>(r#"{"service":"kubelet"}"#).expect("a plain announcement");
        assert!(serde_json::from_str::<Announcement>(r#"{"service":"kubelet","other":1}"#).is_err());
    }
}
