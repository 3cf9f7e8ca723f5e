//! A key that is made where it is used and never travels: what travels is the request to certify it.
//!
//! The key is ECDSA P-256. Its file is a line `keelson key 1 1` (what it is, its version, the oldest version that can
//! read it) and the key in PKCS#8, PEM.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::pair::{self, Pair, PairError};

const HEADER: &str = "keelson key 1 1\n";

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("making a key")]
    Generate(#[source] rcgen::Error),
    #[error("this is not a file with a key")]
    Malformed,
    #[error("making a certificate request")]
    Request(#[source] rcgen::Error),
    #[error("signing")]
    Sign(#[source] rcgen::Error),
}

pub struct Key(KeyPair);

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key")
    }
}

impl Key {
    pub fn generate() -> Result<Self, KeyError> {
        KeyPair::generate().map(Self).map_err(KeyError::Generate)
    }

    pub fn to_file(&self) -> Vec<u8> {
        format!("{HEADER}{}", pair::private_key_pem(self.0.serialized_der())).into_bytes()
    }

    pub fn from_file(content: &[u8]) -> Result<Self, KeyError> {
        if !content.starts_with(HEADER.as_bytes()) {
            return Err(KeyError::Malformed);
        }
        let document = PrivatePkcs8KeyDer::from_pem_slice(content).map_err(|_| KeyError::Malformed)?;
        KeyPair::from_pkcs8_der_and_sign_algo(&document, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|_| KeyError::Malformed)
    }

    /// DER `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// ECDSA with SHA-256, ASN.1.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.0.sign(message).map_err(KeyError::Sign)
    }

    /// A PKCS#10 request in PEM. It names nobody: whoever certifies decides on the names.
    pub fn request(&self) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0).and_then(|request| request.pem()).map_err(KeyError::Request)
    }

    /// The key with the certificate (PEM) that came for it. The key is copied, so that it can be certified again.
    pub fn certified(&self, certificate: &str) -> Result<Pair, PairError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| PairError::Certificate)?;
        Pair::checked(certificate, pair::key_pair(&PrivatePkcs8KeyDer::from(self.0.serialized_der()))?)
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::{Authority, AuthorityKind, Clock, Profile, Subject, pair::certificate_pem};

    #[test]
    fn is_read_back_as_written_and_certified_by_its_request() {
        let key = Key::generate().unwrap();
        let again = Key::from_file(&key.to_file()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let now = OffsetDateTime::now_utc();
        let clock = Clock { now, floor: now - Duration::DAY };
        let authority = Authority::create(AuthorityKind::Api, "a", clock).unwrap();
        let profile = Profile::client(Subject::named("n"));
        let certificate = authority.issue_for_request(&profile, &again.request().unwrap(), clock).unwrap();
        let pem = certificate_pem(&certificate);
        assert!(key.certified(&pem).unwrap().matches(&profile, authority.certificate()));
        assert!(matches!(Key::generate().unwrap().certified(&pem), Err(PairError::Mismatch)), "another's certificate");
    }

    #[test]
    fn other_files_are_refused() {
        for content in ["", "keelson key 1 1\n", "keelson pair 1 1\n"] {
            assert!(matches!(Key::from_file(content.as_bytes()), Err(KeyError::Malformed)), "{content:?}");
        }
    }
}
