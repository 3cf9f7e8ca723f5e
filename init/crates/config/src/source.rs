//! Where a value was said, in the words of whoever has to go there and correct it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place that can say something about the node. The order of the variants is the order of precedence: the first
/// origin that says a field decides it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The kernel's command line.
    CommandLine,
    /// A file or a credential on the EFI system partition, by its path there.
    Esp(String),
    /// The nth string (from 1) of the SMBIOS type 11 structures.
    Smbios(usize),
    /// A QEMU `fw_cfg` item, by its name.
    FwCfg(String),
    /// A file on a NoCloud volume.
    NoCloud(String),
    /// The host, over vsock.
    Vsock,
    /// A document fetched from a URL.
    Http(String),
    /// A cloud's metadata service, by its name.
    Metadata(String),
    /// What STATE remembers. For role, name and cluster id it comes first.
    State,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("kernel command line"),
            Self::Esp(path) => write!(f, "EFI system partition, {path}"),
            Self::Smbios(string) => write!(f, "SMBIOS type 11 string {string}"),
            Self::FwCfg(item) => write!(f, "fw_cfg {item}"),
            Self::NoCloud(file) => write!(f, "NoCloud volume, {file}"),
            Self::Vsock => f.write_str("vsock"),
            Self::Http(url) => f.write_str(url),
            Self::Metadata(service) => write!(f, "{service} metadata"),
            Self::State => f.write_str("STATE"),
        }
    }
}

/// Where exactly a value was said: the origin and, inside a document that came from there, the field.
///
/// A key=value word of an origin goes before a document of the same origin: it is the more deliberate of the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    pub origin: Origin,
    /// The path of the field in the document, for instance `spec.network.links[0].mtu`; empty for the document itself.
    /// `None` sorts before `Some`, which is the precedence stated above.
    pub field: Option<String>,
}

impl Source {
    pub fn word(origin: Origin) -> Self {
        Self { origin, field: None }
    }

    pub fn document(origin: Origin, field: impl Into<String>) -> Self {
        Self { origin, field: Some(field.into()) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_deref() {
            None => write!(f, "{}", self.origin),
            Some("") => write!(f, "document ({})", self.origin),
            Some(field) => write!(f, "document ({}), field {field}", self.origin),
        }
    }
}
