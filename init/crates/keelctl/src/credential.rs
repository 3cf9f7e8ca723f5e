//! The certificate for a day and its key, and the file they are cached in.
//!
//! The key is made here and never sent. The file is text, mode 0600: a line `keelctl credential 1 sha256:…` (what it is, its
//! version, the fingerprint of the authority it is for), then certificate and key in PEM. A file of another version, for
//! another authority or without enough life left is as good as none: it is made anew.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    config::Fingerprint,
    private_file::{self, FileError},
};

const HEADING: &str = "keelctl credential 1";

/// With less life left, a certificate is renewed before it is used: it has to last for a command that waits.
const LIFE_MIN: Duration = Duration::minutes(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    #[error("cannot make a certificate request")]
    Request(#[source] rcgen::Error),
    #[error("the node sent something else than a certificate")]
    Malformed,
    #[error("the cache of certificates")]
    Cache(#[from] FileError),
}

/// A key and the request to certify it.
pub(crate) struct Request {
    key: KeyPair,
    pub csr: String,
}

/// A certified key.
pub(crate) struct Credential {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Request {
    /// A new key. The request names nobody: the node decides.
    pub(crate) fn new() -> Result<Self, CredentialError> {
        let key = KeyPair::generate().map_err(CredentialError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(CredentialError::Request)?;
        let csr = request.pem().map_err(CredentialError::Request)?;
        Ok(Self { key, csr })
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The file that the key and its certificate are cached in.
    pub(crate) fn to_file(&self, certificate: &str, authority: &Fingerprint) -> String {
        format!("{HEADING} {authority}\n{}\n{}", certificate.trim_end(), self.key_pem())
    }
}

impl Credential {
    /// The cached one, if it can be used now.
    pub(crate) fn cached(path: &Path, authority: &Fingerprint, now: OffsetDateTime) -> Option<Self> {
        let text = private_file::read_secret(path).ok()?;
        let credential = Self::from_file(&text, authority)?;
        (credential.expires()? > now + LIFE_MIN).then_some(credential)
    }

    /// Reads what [`Request::to_file`] made for this authority.
    pub(crate) fn from_file(text: &str, authority: &Fingerprint) -> Option<Self> {
        let heading = text.lines().next()?;
        if heading != format!("{HEADING} {authority}") {
            return None;
        }
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
        Some(Self { certificate, key })
    }

    pub(crate) fn for_tls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))
    }

    fn expires(&self) -> Option<OffsetDateTime> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        Some(certificate.validity().not_after.to_datetime())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(digits: &str) -> Fingerprint {
        format!("sha256:{}", digits.repeat(32)).parse().expect("a fingerprint")
    }

    fn file(life: Duration) -> String {
        let request = Request::new().expect("a request");
        let mut params = CertificateParams::default();
        params.not_after = OffsetDateTime::now_utc() + life;
        let certificate = params.self_signed(&request.key).expect("a certificate");
        request.to_file(&certificate.pem(), &authority("ab"))
    }

    #[test]
    fn is_read_as_it_was_written_and_for_its_authority_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.pem");
        let now = OffsetDateTime::now_utc();
        let cached = |authority: &Fingerprint| Credential::cached(&path, authority, now).is_some();
        assert!(!cached(&authority("ab")), "there is no file");
        let text = file(Duration::HOUR);
        private_file::replace(&path, &text).expect("written");
        assert!(cached(&authority("ab")));
        assert!(!cached(&authority("cd")), "another authority");
        for other in
            [text.replace("credential 1", "credential 2"), text.replace("BEGIN CERTIFICATE", "BEGIN"), String::new()]
        {
            private_file::replace(&path, &other).expect("written");
            assert!(!cached(&authority("ab")), "{other:.40}");
        }
    }

    #[test]
    fn is_not_used_when_it_is_about_to_expire() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.pem");
        private_file::replace(&path, &file(Duration::minutes(20))).expect("written");
        let now = OffsetDateTime::now_utc();
        assert!(Credential::cached(&path, &authority("ab"), now).is_some());
        assert!(Credential::cached(&path, &authority("ab"), now + Duration::minutes(6)).is_none());
    }
}
