//! The form of the JSON files that are kept across releases.
//!
//! Such a file is one JSON object. Three of its fields are in every one of them: `format` says what it is, `version` which form of that, and
//! `oldestReader` which version can read it: a release that does not reach that refuses the file instead of guessing, whatever else is in
//! it. All other fields are the value's own.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a file says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub format: &'static str,
    /// The one that is written, and the newest that is understood.
    pub version: u32,
}

/// `/state/identity.json`: written by keelson-cluster, read at boot too.
pub const IDENTITY: Form = Form { format: "keelson identity", version: 1 };
/// `/state/cluster/settings.json`: written by keelson-cluster, read at boot too.
pub const NODE_SETTINGS: Form = Form { format: "keelson node settings", version: 1 };

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("it cannot be read")]
    Malformed(#[source] serde_json::Error),
    #[error("its format is {found:?}, and not {expected:?}")]
    Other { found: String, expected: &'static str },
    #[error("it was written by a later release: it needs version {oldest_reader}, and this release has {newest}")]
    TooNew { oldest_reader: u32, newest: u32 },
}

/// A value that is kept in a file of its own.
pub trait Kept: Sized {
    const FORM: Form;

    fn to_file(&self) -> Result<Vec<u8>, KeptError>
    where
        Self: Serialize,
    {
        let Form { format, version } = Self::FORM;
        let written = Written { format, version, oldest_reader: version, value: self };
        serde_json::to_vec_pretty(&written).map_err(KeptError::Malformed)
    }

    fn from_file(content: &[u8]) -> Result<Self, KeptError>
    where
        Self: DeserializeOwned,
    {
        let Form { format: expected, version: newest } = Self::FORM;
        let preamble: Preamble = serde_json::from_slice(content).map_err(KeptError::Malformed)?;
        if preamble.format != expected {
            return Err(KeptError::Other { found: preamble.format, expected });
        }
        if preamble.oldest_reader > newest {
            return Err(KeptError::TooNew { oldest_reader: preamble.oldest_reader, newest });
        }
        serde_json::from_slice(content).map_err(KeptError::Malformed)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a, T> {
    format: &'static str,
    version: u32,
    oldest_reader: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// What every release can read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preamble {
    format: String,
    oldest_reader: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sizes {
        sizes: Vec<u32>,
    }

    impl Kept for Sizes {
        const FORM: Form = Form { format: "keelson sizes", version: 3 };
    }

    #[test]
    fn is_read_back_as_written_and_says_what_it_is() {
        let sizes = Sizes { sizes: vec![1, 2] };
        let content = sizes.to_file().unwrap();
        assert_eq!(Sizes::from_file(&content).unwrap(), sizes);
        let object: serde_json::Value = serde_json::from_slice(&content).unwrap();
        let expected =
            serde_json::json!({ "format": "keelson sizes", "version": 3, "oldestReader": 3, "sizes": [1, 2] });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_later_form_is_read_if_it_says_so_and_else_refused_whatever_is_in_it() {
        let read = |text: &str| Sizes::from_file(text.as_bytes());
        let later = r#"{"format":"keelson sizes","version":9,"oldestReader":3,"sizes":[7],"units":"m"}"#;
        assert_eq!(read(later).unwrap(), Sizes { sizes: vec![7] });
        let too_new = read(r#"{"format":"keelson sizes","version":9,"oldestReader":4,"sizes":"7 m"}"#);
        assert!(matches!(too_new, Err(KeptError::TooNew { oldest_reader: 4, newest: 3 })));
    }

    #[test]
    fn another_file_is_refused() {
        let read = |text: &str| Sizes::from_file(text.as_bytes());
        assert!(matches!(read("{}"), Err(KeptError::Malformed(_))));
        assert!(matches!(
            read(r#"{"format":"keelson sizes","version":3,"oldestReader":3}"#),
            Err(KeptError::Malformed(_))
        ));
        let other = read(r#"{"format":"other","version":1,"oldestReader":1,"sizes":[]}"#);
        assert!(matches!(other, Err(KeptError::Other { .. })));
    }
}
