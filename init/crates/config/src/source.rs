//! Where a value was said, in the words of whoever has to go there and correct it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Of whom operators have said something to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// One node.
    Node,
    /// All nodes of the cluster.
    Cluster,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "the settings of this node",
            Self::Cluster => "the cluster's settings",
        })
    }
}

/// A place that can say something about the node. The order of the variants is the order of precedence: the first
/// origin that says a field decides it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The kernel's command line.
    CommandLine,
    /// What operators have told the cluster ([`crate::scopes`]).
    Cluster(Scope),
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

impl Origin {
    /// The place in the order of precedence; two strings of one SMBIOS table have the same.
    pub fn rank(&self) -> u8 {
        match self {
            Self::CommandLine => 0,
            Self::Cluster(Scope::Node) => 1,
            Self::Cluster(Scope::Cluster) => 2,
            Self::Esp(_) => 3,
            Self::Smbios(_) => 4,
            Self::FwCfg(_) => 5,
            Self::NoCloud(_) => 6,
            Self::Vsock => 7,
            Self::Http(_) => 8,
            Self::Metadata(_) => 9,
            Self::State => 10,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("kernel command line"),
            Self::Cluster(scope) => write!(f, "{scope}"),
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

/// What a path shows of a name that the document made up.
pub(crate) const NAME_MAX: usize = 41;

/// Where exactly a value was said: the origin and, inside a document that came from there, the field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    pub origin: Origin,
    /// The path of the field in the document, for instance `spec.network.links[0].mtu`; empty for the document itself.
    /// `None` for a key=value word.
    pub field: Option<String>,
}

impl Source {
    pub fn word(origin: Origin) -> Self {
        Self { origin, field: None }
    }

    pub fn document(origin: Origin, field: impl Into<String>) -> Self {
        Self { origin, field: Some(field.into()) }
    }

    /// Smaller goes first. A key=value word goes before a document of the same origin: it is the more deliberate of the two.
    pub fn precedence(&self) -> (u8, bool) {
        (self.origin.rank(), self.field.is_some())
    }

    /// The source of a part of this value, for instance `[2]` or `.mtu`. A word has no parts that can be named.
    /// A name that is longer than any of ours is left out: it comes from the document and may be a misplaced secret.
    #[must_use]
    pub fn part(&self, suffix: &str) -> Self {
        let suffix = if suffix.len() > NAME_MAX { ".(a long name)" } else { suffix };
        Self { origin: self.origin.clone(), field: self.field.as_ref().map(|field| format!("{field}{suffix}")) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_deref() {
            None => write!(f, "{}", self.origin),
            Some("") => write!(f, "document ({})", self.origin),
            // They are no document that could be looked for anywhere.
            Some(field) if matches!(self.origin, Origin::Cluster(_)) => write!(f, "{}, field {field}", self.origin),
            Some(field) => write!(f, "document ({}), field {field}", self.origin),
        }
    }
}
