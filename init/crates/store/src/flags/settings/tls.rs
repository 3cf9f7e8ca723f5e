//! Certificates, and what is asked of those of others.

use std::path::PathBuf;

use super::SettingsError;
use super::take::Take;

/// Files of one side's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_cert_auth: bool,
    pub trusted_ca: Option<PathBuf>,
    /// Certificates that are refused although an authority vouches for them.
    pub revoked: Option<PathBuf>,
    /// Names, one of which a client's certificate must be for; any if there are none.
    pub allowed_hostnames: Vec<String>,
    /// The same of its subject's common name. At most one of the two lists has something in it.
    pub allowed_common_names: Vec<String>,
    pub versions: TlsVersions,
    /// Of TLS 1.2, by the names that IANA gives them; all that are good if there are none.
    pub cipher_suites: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    #[default]
    All,
    Only12,
    Only13,
}

impl Take<'_> {
    pub(super) fn client_tls(&self) -> Result<Option<TlsFiles>, SettingsError> {
        let Some(mut files) = self.tls(["cert-file", "key-file", "client-cert-auth", "trusted-ca-file"])? else {
            return Ok(None);
        };
        files.revoked = self.text("client-crl-file").map(PathBuf::from);
        files.allowed_hostnames = self.list("client-cert-allowed-hostname").unwrap_or_default();
        let restricts = files.revoked.is_some() || !files.allowed_hostnames.is_empty();
        if restricts && files.trusted_ca.is_none() {
            let given = if files.revoked.is_some() { "client-crl-file" } else { "client-cert-allowed-hostname" };
            return Err(SettingsError::Incomplete { given, missing: "trusted-ca-file" });
        }
        Ok(Some(files))
    }

    pub(super) fn peer_tls(&self) -> Result<Option<TlsFiles>, SettingsError> {
        let names = ["peer-cert-file", "peer-key-file", "peer-client-cert-auth", "peer-trusted-ca-file"];
        let Some(mut files) = self.tls(names)? else { return Ok(None) };
        files.revoked = self.text("peer-crl-file").map(PathBuf::from);
        files.allowed_hostnames = self.list("peer-cert-allowed-hostname").unwrap_or_default();
        files.allowed_common_names = self.list("peer-cert-allowed-cn").unwrap_or_default();
        let given = match (files.allowed_hostnames.is_empty(), files.allowed_common_names.is_empty()) {
            (true, true) => return Ok(Some(files)),
            (false, true) => "peer-cert-allowed-hostname",
            (true, false) => "peer-cert-allowed-cn",
            (false, false) => return Err(SettingsError::AllowedTwice),
        };
        if files.trusted_ca.is_none() {
            return Err(SettingsError::Incomplete { given, missing: "peer-trusted-ca-file" });
        }
        Ok(Some(files))
    }

    fn tls(&self, names: [&'static str; 4]) -> Result<Option<TlsFiles>, SettingsError> {
        let [cert_name, key_name, auth_name, ca_name] = names;
        let client_cert_auth = self.switch(auth_name)?;
        let trusted_ca = self.text(ca_name).map(PathBuf::from);
        let (cert, key) = match (self.text(cert_name), self.text(key_name)) {
            (Some(cert), Some(key)) => (PathBuf::from(cert), PathBuf::from(key)),
            (Some(_), None) => return Err(SettingsError::Incomplete { given: cert_name, missing: key_name }),
            (None, Some(_)) => return Err(SettingsError::Incomplete { given: key_name, missing: cert_name }),
            (None, None) if client_cert_auth => {
                return Err(SettingsError::Incomplete { given: auth_name, missing: cert_name });
            }
            (None, None) => return Ok(None),
        };
        if client_cert_auth && trusted_ca.is_none() {
            return Err(SettingsError::Incomplete { given: auth_name, missing: ca_name });
        }
        let versions = self.tls_versions()?;
        let cipher_suites = self.cipher_suites(versions)?;
        Ok(Some(TlsFiles { cert, key, client_cert_auth, trusted_ca, versions, cipher_suites, ..TlsFiles::default() }))
    }

    /// As in etcd, those of TLS 1.3 cannot be chosen.
    fn cipher_suites(&self, versions: TlsVersions) -> Result<Vec<String>, SettingsError> {
        let Some(word) = self.word("cipher-suites") else { return Ok(Vec::new()) };
        let names = self.list("cipher-suites").unwrap_or_default();
        if names.iter().any(|name| !name.starts_with("TLS_")) {
            return Err(Self::wrong(word, "list of cipher suites such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"));
        }
        if versions == TlsVersions::Only13 {
            return Err(SettingsError::CipherSuites);
        }
        Ok(names)
    }

    fn tls_versions(&self) -> Result<TlsVersions, SettingsError> {
        let version = |name: &str| match self.word(name) {
            None => Ok(None),
            Some(word) => match word.value.as_str() {
                "TLS1.2" => Ok(Some(2)),
                "TLS1.3" => Ok(Some(3)),
                _ => Err(Self::wrong(word, "TLS version: TLS1.2 or TLS1.3")),
            },
        };
        match (version("tls-min-version")?.unwrap_or(2), version("tls-max-version")?.unwrap_or(3)) {
            (2, 3) => Ok(TlsVersions::All),
            (2, _) => Ok(TlsVersions::Only12),
            (_, 3) => Ok(TlsVersions::Only13),
            _ => Err(SettingsError::TlsVersions),
        }
    }
}
