//! Secrets of a control plane that are not certificates: the key that encrypts Secrets at rest, and the key that signs
//! `ServiceAccount` tokens.
//!
//! Both are files on STATE. `/state/cluster/encryption.json` is as [`keelson_config::kept`] has it, with a list of keys, the first of which writes and all of which read; `/state/cluster/service-account.key` is a line
//! `keelson key 1 1` and a PKCS#8 key in PEM. Neither is ever logged, and neither leaves the node in plain text.

use std::fmt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keelson_config::kept::{Form, Kept, KeptError};
use keelson_pki::{Files, FilesError, Mode, Owner};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const KEY_HEADER: &str = "keelson key 1 1";
const ENCRYPTION_FILE: &str = "encryption.json";
const SIGNING_FILE: &str = "service-account.key";
/// What `XSalsa20` and Poly1305 (`secretbox`) take.
const ENCRYPTION_KEY_BYTES: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("the system's random numbers are not available")]
    Random,
    #[error("the encryption keys on STATE")]
    Encryption(#[from] KeptError),
    #[error("there are no encryption keys on STATE")]
    NoEncryption,
    #[error("the ServiceAccount signing key on STATE cannot be read")]
    SigningKey,
    #[error(transparent)]
    Files(#[from] FilesError),
}

#[derive(Debug)]
pub struct Secrets {
    pub encryption: EncryptionKeys,
    pub signing: SigningKey,
}

impl Secrets {
    /// Reads both, making what is missing if the cluster is being founded.
    pub fn create(files: &dyn Files, directory: &Path) -> Result<Self, SecretsError> {
        files.directory(directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        Ok(Self {
            encryption: EncryptionKeys::create(files, directory)?,
            signing: SigningKey::create(files, directory)?,
        })
    }

    /// Removes whatever there is of them.
    pub fn forget(files: &dyn Files, directory: &Path) -> Result<(), FilesError> {
        EncryptionKeys::forget(files, directory)?;
        files.remove(&directory.join(SIGNING_FILE))
    }

    /// Reads both: new ones would make what is stored unreadable.
    pub fn read(files: &dyn Files, directory: &Path) -> Result<Self, SecretsError> {
        Ok(Self {
            encryption: EncryptionKeys::read(files, directory)?.ok_or(SecretsError::NoEncryption)?,
            signing: SigningKey::read(files, directory)?.ok_or(SecretsError::SigningKey)?,
        })
    }
}

/// The first key writes, all of them read: that is how one is exchanged for another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionKeys {
    keys: Vec<EncryptionKey>,
}

impl Kept for EncryptionKeys {
    const FORM: Form = Form { format: "keelson encryption keys", version: 1 };
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EncryptionKey {
    name: String,
    /// Base64
    secret: String,
}

impl fmt::Debug for EncryptionKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.keys.iter().map(|key| &key.name).collect();
        formatter.debug_struct("EncryptionKeys").field("names", &names).finish_non_exhaustive()
    }
}

impl EncryptionKeys {
    fn create(files: &dyn Files, directory: &Path) -> Result<Self, SecretsError> {
        if let Some(keys) = Self::read(files, directory)? {
            return Ok(keys);
        }
        let keys = Self::generate()?;
        keys.save(files, directory)?;
        Ok(keys)
    }

    /// One new key.
    pub fn generate() -> Result<Self, SecretsError> {
        let mut secret = [0_u8; ENCRYPTION_KEY_BYTES];
        rand::fill(&mut secret).map_err(|_| SecretsError::Random)?;
        let mut name = [0_u8; 4];
        rand::fill(&mut name).map_err(|_| SecretsError::Random)?;
        let key =
            EncryptionKey { name: format!("key-{:08x}", u32::from_be_bytes(name)), secret: STANDARD.encode(secret) };
        Ok(Self { keys: vec![key] })
    }

    /// These, and the others behind them: what was encrypted with those is still read.
    #[must_use]
    pub fn before(&self, others: &Self) -> Self {
        let behind = others.keys.iter().filter(|other| !self.keys.contains(other));
        Self { keys: self.keys.iter().chain(behind).cloned().collect() }
    }

    /// The name of the key that writes.
    pub fn writing(&self) -> &str {
        self.keys.first().map_or("", |key| &key.name)
    }

    pub fn forget(files: &dyn Files, directory: &Path) -> Result<(), FilesError> {
        files.remove(&directory.join(ENCRYPTION_FILE))
    }

    /// Writes them in the place of those that were there.
    pub fn save(&self, files: &dyn Files, directory: &Path) -> Result<(), SecretsError> {
        files.directory(directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        files.update(&directory.join(ENCRYPTION_FILE), &self.to_file()?, Mode::SECRET, Owner::ROOT)?;
        Ok(())
    }

    /// None if there are none.
    pub fn read(files: &dyn Files, directory: &Path) -> Result<Option<Self>, SecretsError> {
        let Some(content) = files.read(&directory.join(ENCRYPTION_FILE))? else {
            return Ok(None);
        };
        let keys = Self::from_file(&content)?;
        if keys.keys.is_empty() { Err(SecretsError::NoEncryption) } else { Ok(Some(keys)) }
    }

    /// What kube-apiserver reads. There is no `identity` provider: a Secret in plain text in the store is not accepted.
    pub fn configuration(&self) -> Value {
        let keys: Vec<_> = self.keys.iter().map(|key| json!({ "name": key.name, "secret": key.secret })).collect();
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{ "resources": ["secrets"], "providers": [{ "secretbox": { "keys": keys } }] }],
        })
    }
}

/// Derived from the public key's point, so that every reader agrees on it.
fn key_id(point: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, point))
}

/// The id of another control plane's key, from its DER `SubjectPublicKeyInfo`; none if that is no key for ES256.
pub fn key_id_of(public_key: &[u8]) -> Option<String> {
    use x509_parser::prelude::FromDer as _;
    use x509_parser::public_key::PublicKey;
    let (rest, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(public_key).ok()?;
    let PublicKey::EC(point) = info.parsed().ok()? else { return None };
    (rest.is_empty() && point.key_size() == 256).then(|| key_id(point.data()))
}

/// Signs `ServiceAccount` tokens (ES256). Each control plane has one of its own.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    id: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The key on STATE, made if there is none.
    pub fn create(files: &dyn Files, directory: &Path) -> Result<Self, SecretsError> {
        files.directory(directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        if let Some(key) = Self::read(files, directory)? {
            return Ok(key);
        }
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| SecretsError::Random)?;
        let content = format!("{KEY_HEADER}\n{}", keelson_pki::pair::private_key_pem(document.as_ref()));
        files.write(&directory.join(SIGNING_FILE), content.as_bytes(), Mode::SECRET, Owner::ROOT)?;
        Self::from_pkcs8(document.as_ref())
    }

    fn read(files: &dyn Files, directory: &Path) -> Result<Option<Self>, SecretsError> {
        let Some(content) = files.read(&directory.join(SIGNING_FILE))? else {
            return Ok(None);
        };
        if !content.starts_with(KEY_HEADER.as_bytes()) {
            return Err(SecretsError::SigningKey);
        }
        let document = PrivatePkcs8KeyDer::from_pem_slice(&content).map_err(|_| SecretsError::SigningKey)?;
        Self::from_pkcs8(document.secret_pkcs8_der()).map(Some)
    }

    fn from_pkcs8(document: &[u8]) -> Result<Self, SecretsError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document)
            .map_err(|_| SecretsError::SigningKey)?;
        Ok(Self { id: key_id(pair.public_key().as_ref()), pair })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// DER `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> Result<Vec<u8>, SecretsError> {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let document: PublicKeyX509Der<'_> = self.pair.public_key().as_der().map_err(|_| SecretsError::SigningKey)?;
        Ok(document.as_ref().to_vec())
    }

    /// The same in base64, as records have it.
    pub fn public_text(&self) -> Result<String, SecretsError> {
        Ok(STANDARD.encode(self.public_key()?))
    }

    /// RFC 7518, 3.4: the two integers side by side.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SecretsError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SecretsError::Random)?;
        Ok(signature.as_ref().to_vec())
    }
}
