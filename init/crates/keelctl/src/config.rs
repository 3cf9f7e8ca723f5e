//! The configuration file: contexts, as kubectl has them.
//!
//! ```yaml
//! currentContext: home
//! contexts:
//! - name: home
//!   endpoint: https://192.0.2.10:6400
//!   fingerprint: sha256:…        # of the API's authority, as the node's console shows it
//!   nextFingerprint: sha256:…    # of the one that it is being exchanged for; written by keelctl, as the cluster tells it
//!   key: /srv/operator.key
//! ```
//!
//! Unknown fields are refused. Relative paths count from the file's directory, so that a directory with the file and its
//! key can be moved. Certificates are cached beside the file, in `keelctl-certificates/`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use keelson_api::PORT;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};

use crate::private_file::{self, FileError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("neither --config, KEELCTL_CONFIG, XDG_CONFIG_HOME nor HOME says where the configuration file is")]
    NoPlace,
    #[error("cannot read the configuration file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration file {}: {message}", path.display())]
    Malformed { path: PathBuf, message: String },
    #[error("cannot write the configuration file")]
    Write(#[from] FileError),
    #[error("the configuration file {} has no context {name:?}; it has: {known}", path.display())]
    NoContext { path: PathBuf, name: String, known: String },
    #[error("no context is chosen in {}; make one with keelctl config set-context, or choose one with keelctl config use", path.display())]
    NoCurrent { path: PathBuf },
    #[error("a new context needs --{field}")]
    Incomplete { field: &'static str },
    #[error("{name:?} cannot be a context's name: it takes letters, digits, dots, hyphens and underscores")]
    Name { name: String },
    #[error("--endpoint {endpoint:?}: {reason}")]
    Endpoint { endpoint: String, reason: &'static str },
    #[error("--fingerprint {fingerprint:?} is not sha256: and 64 hexadecimal digits")]
    Fingerprint { fingerprint: String },
}

/// The file's content.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_context: Option<String>,
    #[serde(default)]
    pub contexts: Vec<Context>,
}

/// One node and how to be its operator.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Context {
    pub name: String,
    pub endpoint: Endpoint,
    pub fingerprint: Fingerprint,
    /// Of the authority that takes that one's place, as the cluster itself has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fingerprint: Option<Fingerprint>,
    pub key: PathBuf,
}

impl Context {
    /// What the cluster has shown: by which of the two it is known now, and by what it will be. Says whether that is news.
    pub(crate) fn learn(&mut self, learned: &Learned) -> bool {
        let before = self.clone();
        // While the exchange goes on, others may still show the former one.
        let is_over = learned.next != learned.shown;
        if is_over && self.next_fingerprint.is_some() && self.next_fingerprint == learned.shown {
            self.fingerprint = self.next_fingerprint.take().unwrap_or_else(|| self.fingerprint.clone());
        }
        if let Some(next) = learned.next.as_ref().filter(|next| **next != self.fingerprint) {
            self.next_fingerprint = Some(next.clone());
        }
        *self != before
    }

    /// By which the cluster may be known.
    pub(crate) fn fingerprints(&self) -> Vec<keelson_pki::Fingerprint> {
        std::iter::once(&self.fingerprint).chain(&self.next_fingerprint).map(Fingerprint::digest).collect()
    }
}

/// What a control plane has shown, beside its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Learned {
    /// Its pinned authority.
    pub shown: Option<Fingerprint>,
    /// The one that will take its place.
    pub next: Option<Fingerprint>,
}

/// Where a node's API answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// The SHA-256 of the API authority's certificate, in lower-case hexadecimal.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Fingerprint(keelson_pki::Fingerprint);

/// The configuration and the file it is from.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    pub contexts: Contexts,
}

impl Config {
    /// Reads the file; one that does not exist has no contexts yet.
    pub(crate) fn read(path: Option<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.map_or_else(default_path, Ok)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        if text.trim().is_empty() {
            return Ok(Self { path, contexts: Contexts::default() });
        }
        match serde_saphyr::from_str(&text) {
            Ok(contexts) => Ok(Self { path, contexts }),
            Err(error) => Err(ConfigError::Malformed { path, message: error.to_string() }),
        }
    }

    pub(crate) fn write(&self) -> Result<(), ConfigError> {
        let text = serde_saphyr::to_string(&self.contexts)
            .map_err(|error| ConfigError::Malformed { path: self.path.clone(), message: error.to_string() })?;
        Ok(private_file::replace(&self.path, &text)?)
    }

    /// The context of that name, or the current one, its paths absolute or from here.
    pub(crate) fn context(&self, name: Option<&str>) -> Result<Context, ConfigError> {
        let current = self.contexts.current_context.as_deref();
        let name = name.or(current).ok_or_else(|| ConfigError::NoCurrent { path: self.path.clone() })?;
        let found = self.contexts.contexts.iter().find(|context| context.name == name);
        let mut context = found.cloned().ok_or_else(|| self.no_context(name))?;
        context.key = self.directory().join(context.key);
        Ok(context)
    }

    /// Where a context's certificate is cached.
    pub(crate) fn certificate(&self, context: &str) -> PathBuf {
        self.directory().join("keelctl-certificates").join(format!("{context}.pem"))
    }

    /// Makes a context or changes the fields of one that are said.
    pub(crate) fn set_context(
        &mut self,
        name: &str,
        endpoint: Option<&str>,
        fingerprint: Option<&str>,
        key: Option<PathBuf>,
    ) -> Result<(), ConfigError> {
        check_name(name)?;
        let endpoint = endpoint.map(Endpoint::from_str).transpose()?;
        let fingerprint = fingerprint.map(Fingerprint::from_str).transpose()?;
        // A path that is typed counts from where it is typed.
        let key = key.map(|key| std::path::absolute(&key).unwrap_or(key));
        if let Some(context) = self.contexts.contexts.iter_mut().find(|context| context.name == name) {
            context.endpoint = endpoint.unwrap_or_else(|| context.endpoint.clone());
            if let Some(fingerprint) = fingerprint {
                (context.fingerprint, context.next_fingerprint) = (fingerprint, None);
            }
            context.key = key.unwrap_or_else(|| context.key.clone());
            return Ok(());
        }
        self.contexts.contexts.push(Context {
            name: name.to_owned(),
            endpoint: endpoint.ok_or(ConfigError::Incomplete { field: "endpoint" })?,
            fingerprint: fingerprint.ok_or(ConfigError::Incomplete { field: "fingerprint" })?,
            next_fingerprint: None,
            key: key.ok_or(ConfigError::Incomplete { field: "key" })?,
        });
        self.contexts.current_context.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    /// [`Context::learn`] of the context of that name.
    pub(crate) fn learn(&mut self, name: &str, learned: &Learned) -> bool {
        let context = self.contexts.contexts.iter_mut().find(|context| context.name == name);
        context.is_some_and(|context| context.learn(learned))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn use_context(&mut self, name: &str) -> Result<(), ConfigError> {
        self.context(Some(name))?;
        self.contexts.current_context = Some(name.to_owned());
        Ok(())
    }

    pub(crate) fn delete_context(&mut self, name: &str) -> Result<(), ConfigError> {
        self.context(Some(name))?;
        self.contexts.contexts.retain(|context| context.name != name);
        if self.contexts.current_context.as_deref() == Some(name) {
            self.contexts.current_context = None;
        }
        Ok(())
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn no_context(&self, name: &str) -> ConfigError {
        let known: Vec<_> = self.contexts.contexts.iter().map(|context| context.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        ConfigError::NoContext { path: self.path.clone(), name: name.to_owned(), known }
    }
}

fn default_path() -> Result<PathBuf, ConfigError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    home.map(|home| home.join("keelson/keelctl.yaml")).ok_or(ConfigError::NoPlace)
}

/// Names become file names.
fn check_name(name: &str) -> Result<(), ConfigError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || ".-_".contains(character);
    let valid = !name.is_empty() && name.len() <= 100 && name.chars().all(allowed) && !name.starts_with('.');
    if valid { Ok(()) } else { Err(ConfigError::Name { name: name.to_owned() }) }
}

impl Endpoint {
    /// The name that the node's certificate must have.
    pub(crate) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }

    /// `host:port`, an IPv6 address in brackets.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let error = |reason| ConfigError::Endpoint { endpoint: text.to_owned(), reason };
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return Err(error("only https is spoken")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or_else(|| error("a bracket is not closed"))?,
            None if rest.matches(':').count() > 1 => (rest, ""),
            None => rest.find(':').map_or((rest, ""), |colon| rest.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| error("the port is not a number below 65536"))?,
            None if port.is_empty() => PORT,
            None => return Err(error("after the address only a port may follow")),
        };
        let endpoint = Self { host: host.to_owned(), port };
        endpoint.server_name().ok_or_else(|| error("neither a host's name nor an address"))?;
        Ok(endpoint)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "https://{}", self.authority())
    }
}

impl TryFrom<String> for Endpoint {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl Fingerprint {
    /// The one of these authorities that is in a chain.
    pub(crate) fn among(chain: &[CertificateDer<'_>], pinned: &[keelson_pki::Fingerprint]) -> Option<Self> {
        let shown = chain.iter().map(|certificate| keelson_pki::Fingerprint::of(certificate));
        shown.into_iter().find(|fingerprint| pinned.contains(fingerprint)).map(Self)
    }

    pub(crate) fn digest(&self) -> keelson_pki::Fingerprint {
        self.0
    }

    pub(crate) fn hexadecimal(&self) -> String {
        self.0.hexadecimal()
    }
}

impl FromStr for Fingerprint {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let error = || ConfigError::Fingerprint { fingerprint: text.to_owned() };
        // Also in the form with colons between bytes, in which openssl prints it.
        let digits: String = text.strip_prefix("sha256:").ok_or_else(error)?.replace(':', "").to_ascii_lowercase();
        keelson_pki::Fingerprint::from_hexadecimal(&digits).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests;
