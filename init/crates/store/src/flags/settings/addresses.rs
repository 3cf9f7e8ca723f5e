//! Where this member is, and where the others are.

use std::path::PathBuf;

use super::take::Take;
use super::{SettingsError, TlsFiles};

/// A place to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub tls: bool,
    /// Host and port, or the path of a unix socket.
    pub address: Address,
}

impl Endpoint {
    /// From a URL such as `https://10.0.0.1:2380`.
    pub fn parse(url: &str) -> Option<Self> {
        parse_url(url)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Take<'_> {
    pub(super) fn endpoints(
        &self,
        flag: &'static str,
        urls: &[String],
        tls: Option<&TlsFiles>,
        missing: &'static str,
    ) -> Result<Vec<Endpoint>, SettingsError> {
        let parse = |url: &String| {
            let endpoint = parse_url(url).ok_or_else(|| SettingsError::Malformed {
                source_name: self.word(flag).map_or_else(|| format!("--{flag}"), |word| word.source.clone()),
                value: url.clone(),
                expected: "URL such as https://10.0.0.1:2379",
            })?;
            if endpoint.tls && tls.is_none() {
                return Err(SettingsError::NoCertificate { flag, missing });
            }
            Ok(endpoint)
        };
        urls.iter().map(parse).collect()
    }

    /// Of addresses that there are only if they are named.
    pub(super) fn more_endpoints(
        &self,
        flag: &'static str,
        tls: Option<&TlsFiles>,
    ) -> Result<Vec<Endpoint>, SettingsError> {
        self.endpoints(flag, &self.list(flag).unwrap_or_default(), tls, "cert-file")
    }

    /// Members by name, each with all URLs it is listed with; this one alone if none are.
    pub(super) fn initial_cluster(
        &self,
        name: &str,
        urls: &[String],
    ) -> Result<Vec<(String, Vec<String>)>, SettingsError> {
        let Some(word) = self.word("initial-cluster") else { return Ok(vec![(name.to_owned(), urls.to_vec())]) };
        let mut members = std::collections::BTreeMap::<String, Vec<String>>::new();
        for item in word.value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.split_once('=') {
                Some((name, url)) if !name.is_empty() && parse_url(url).is_some() => {
                    members.entry(name.to_owned()).or_default().push(url.to_owned());
                }
                _ => {
                    return Err(Self::wrong(
                        word,
                        "list of members such as a=https://10.0.0.1:2380,b=https://10.0.0.2:2380",
                    ));
                }
            }
        }
        Ok(members.into_iter().collect())
    }

    pub(super) fn joins(&self) -> Result<bool, SettingsError> {
        match self.word("initial-cluster-state") {
            None => Ok(false),
            Some(word) => match word.value.as_str() {
                "new" => Ok(false),
                "existing" => Ok(true),
                _ => Err(Self::malformed(word, "state of a cluster: new or existing")),
            },
        }
    }
}

fn parse_url(url: &str) -> Option<Endpoint> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let tls = match scheme {
        "http" => false,
        "https" => true,
        "unix" => return Some(Endpoint { tls: false, address: Address::Unix(PathBuf::from(rest)) }),
        "unixs" => return Some(Endpoint { tls: true, address: Address::Unix(PathBuf::from(rest)) }),
        _ => return None,
    };
    let (host, port) = rest.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return None;
    }
    Some(Endpoint { tls, address: Address::Tcp { host: host.to_owned(), port: port.parse().ok()? } })
}
