//! The operator's key: ECDSA P-256 in PKCS#8, PEM.

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};

use crate::private_file::{self, FileError};

/// The configuration word of a node that accepts the key.
const WORD: &str = "keelson.operator-key";

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the operator's key")]
    File(#[from] FileError),
    #[error("{} is not a private key (ECDSA P-256 in PKCS#8, PEM): make one with keelctl key generate", path.display())]
    Malformed { path: PathBuf },
    #[error("cannot make a key")]
    Generate(#[source] rcgen::Error),
    #[error("cannot sign with the operator's key")]
    Sign(#[source] rcgen::Error),
}

pub(crate) struct OperatorKey(KeyPair);

impl OperatorKey {
    /// Makes a key in a file that must not exist yet.
    pub(crate) fn generate(path: &Path) -> Result<Self, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        private_file::create(path, &key.serialize_pem())?;
        Ok(Self(key))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed { path: path.to_path_buf() };
        let key = KeyPair::from_pem(&private_file::read_secret(path)?).map_err(|_| malformed())?;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(malformed());
        }
        Ok(Self(key))
    }

    /// Base64 of the DER `SubjectPublicKeyInfo`.
    pub(crate) fn public(&self) -> String {
        BASE64_STANDARD.encode(self.0.subject_public_key_info())
    }

    /// What a node must be told to accept the key.
    pub(crate) fn configuration_word(&self) -> String {
        format!("{WORD}={}", self.public())
    }

    /// A signature in base64.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<String, KeyError> {
        self.sign_bytes(message).map(|signature| BASE64_STANDARD.encode(signature))
    }

    pub(crate) fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.0.sign(message).map_err(KeyError::Sign)
    }
}

/// The key from that word, or from what stands behind its equals sign.
pub(crate) fn public_of(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix(WORD).and_then(|rest| rest.strip_prefix('=')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("operator.key");
        let made = OperatorKey::generate(&path).expect("made").configuration_word();
        assert_eq!(OperatorKey::read(&path).expect("read").configuration_word(), made);
        let public = OperatorKey::read(&path).expect("read").public();
        assert_eq!((public_of(&made), public_of(&public)), (public.as_str(), public.as_str()));
        // The heading of a P-256 key's SubjectPublicKeyInfo (RFC 5480).
        assert!(made.starts_with("keelson.operator-key=MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"), "{made}");
        assert!(!made.contains('\n'));
    }

    #[test]
    fn other_files_are_no_keys() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("operator.key");
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key").serialize_pem();
        for content in ["", "nonsense", &other] {
            private_file::replace(&path, content).expect("written");
            assert!(matches!(OperatorKey::read(&path), Err(KeyError::Malformed { .. })), "{content:?}");
        }
        assert!(matches!(OperatorKey::read(&directory.path().join("absent")), Err(KeyError::File(_))));
    }
}
