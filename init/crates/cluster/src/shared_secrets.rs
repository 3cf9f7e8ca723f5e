//! What all control planes hold in common, on its way to one that joins.
//!
//! The authorities' keys and the key that encrypts Secrets leave a control plane in this form only: wrapped by HPKE (RFC 9180,
//! base mode) to a key that the joining node made for the one request and signed with its node key. The connection is
//! encrypted besides; wrapping makes the content independent of whatever ends it, buffers it or logs it. The cluster, the node's
//! name and its UID are bound in, so that an answer is of no use in another place. Neither side ever writes the wrapped or
//! the plain form anywhere but into the files of the joining node's STATE.
//!
//! The suite is DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: the curve of all other keys.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::WrappedSecrets;
use keelson_pki::Files;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use serde::{Deserialize, Serialize};

use crate::authorities::{Authorities, AuthoritiesError, Generation};
use crate::membership::ControlPlane;
use crate::paths::Paths;
use crate::secrets::{EncryptionKeys, SecretsError};

/// Names the use and the version of the content (RFC 9180, 5.1).
const INFO: &[u8] = b"keelson control plane secrets 1";
static SUITE: &dyn Hpke = DH_KEM_P256_HKDF_SHA256_AES_256;

#[derive(Debug, thiserror::Error)]
pub enum SharedSecretsError {
    #[error("making a key to wrap to")]
    Key(#[source] rustls::Error),
    #[error("the wrapping key is no key")]
    NoKey,
    #[error("wrapping the cluster's secrets")]
    Seal(#[source] rustls::Error),
    #[error("the cluster's secrets were not wrapped for this node")]
    Open,
    #[error("the cluster's secrets cannot be read")]
    Content,
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

/// Whom the secrets are for.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    pub cluster_id: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

impl Recipient<'_> {
    fn bytes(self) -> Vec<u8> {
        format!("{}\n{}\n{}\n", self.cluster_id, self.name, self.uid).into_bytes()
    }
}

/// A key pair for one exchange; it is in memory only.
pub struct WrappingKey {
    public: HpkePublicKey,
    private: HpkePrivateKey,
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WrappingKey")
    }
}

impl WrappingKey {
    pub fn generate() -> Result<Self, SharedSecretsError> {
        let (public, private) = SUITE.generate_key_pair().map_err(SharedSecretsError::Key)?;
        Ok(Self { public, private })
    }

    /// Base64
    pub fn public(&self) -> String {
        STANDARD.encode(&self.public.0)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedSecrets {
    /// The content of each authority's file, by the authority's name.
    authorities: BTreeMap<String, String>,
    encryption: EncryptionKeys,
}

impl fmt::Debug for SharedSecrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SharedSecrets")
    }
}

impl SharedSecrets {
    pub fn of(held: &ControlPlane) -> Self {
        Self::new(held.authorities.certifying(), &held.secrets.encryption)
    }

    pub fn new(generation: &Generation, encryption: &EncryptionKeys) -> Self {
        Self { authorities: generation.contents(), encryption: encryption.clone() }
    }

    /// `key` is base64, as it came.
    pub fn wrap(&self, key: &str, recipient: Recipient<'_>) -> Result<WrappedSecrets, SharedSecretsError> {
        let key = STANDARD.decode(key).map_err(|_| SharedSecretsError::NoKey)?;
        let content = serde_json::to_vec(self).map_err(|_| SharedSecretsError::Content)?;
        let sealed = SUITE.seal(INFO, &recipient.bytes(), &content, &HpkePublicKey(key));
        let (encapsulated, ciphertext) = sealed.map_err(SharedSecretsError::Seal)?;
        Ok(WrappedSecrets {
            encapsulated_key: STANDARD.encode(encapsulated.0),
            ciphertext: STANDARD.encode(ciphertext),
        })
    }

    pub fn unwrap(
        wrapped: &WrappedSecrets,
        key: &WrappingKey,
        recipient: Recipient<'_>,
    ) -> Result<Self, SharedSecretsError> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| SharedSecretsError::Content);
        let (encapsulated, ciphertext) = (decode(&wrapped.encapsulated_key)?, decode(&wrapped.ciphertext)?);
        let encapsulated = EncapsulatedSecret(encapsulated);
        let opened = SUITE.open(&encapsulated, INFO, &recipient.bytes(), &ciphertext, &key.private);
        let content = opened.map_err(|_| SharedSecretsError::Open)?;
        serde_json::from_slice(&content).map_err(|_| SharedSecretsError::Content)
    }

    /// Writes them where a control plane keeps them, in the place of whatever was there.
    pub fn save(&self, files: &dyn Files, paths: &Paths) -> Result<(), SharedSecretsError> {
        Authorities::install(files, &paths.authorities(), &self.authorities)?;
        self.encryption.save(files, &paths.cluster_state())?;
        Ok(())
    }

    /// Writes them into a directory of their own.
    pub fn save_beside(&self, files: &dyn Files, directory: &Path) -> Result<(), SharedSecretsError> {
        Generation::install(files, directory, &self.authorities)?;
        self.encryption.save(files, directory)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keelson_pki::AuthorityKind;

    use super::*;
    use crate::membership::tests::{MemoryFiles, found_in_memory};
    use crate::secrets::Secrets;

    const RECIPIENT: Recipient<'static> = Recipient { cluster_id: "c", name: "n", uid: "u" };

    #[test]
    fn a_control_plane_gets_what_the_others_have() {
        let membership = found_in_memory();
        let held = membership.control_plane().unwrap();
        let key = WrappingKey::generate().unwrap();
        let wrapped = SharedSecrets::of(held).wrap(&key.public(), RECIPIENT).unwrap();
        let (files, paths) = (MemoryFiles::default(), Paths::default());
        SharedSecrets::unwrap(&wrapped, &key, RECIPIENT).unwrap().save(&files, &paths).unwrap();
        let authorities = Authorities::read(&files, &paths.authorities()).unwrap();
        for kind in AuthorityKind::ALL {
            assert_eq!(authorities.get(kind).pair().to_file(), held.authorities.get(kind).pair().to_file());
        }
        assert!(Secrets::read(&files, &paths.cluster_state()).is_err(), "the signing key is each one's own");
        let secrets = Secrets::create(&files, &paths.cluster_state()).unwrap();
        assert_eq!(secrets.encryption, held.secrets.encryption);
        assert_ne!(secrets.signing.id(), held.secrets.signing.id());
    }

    #[test]
    fn nobody_else_can_open_it_and_nowhere_else() {
        let membership = found_in_memory();
        let secrets = SharedSecrets::of(membership.control_plane().unwrap());
        let key = WrappingKey::generate().unwrap();
        let wrapped = secrets.wrap(&key.public(), RECIPIENT).unwrap();
        let text = serde_json::to_string(&wrapped).unwrap();
        assert!(!text.contains("PRIVATE"));
        let opens = |wrapped: &WrappedSecrets, key: &WrappingKey, recipient| {
            SharedSecrets::unwrap(wrapped, key, recipient).is_ok()
        };
        assert!(opens(&wrapped, &key, RECIPIENT));
        assert!(!opens(&wrapped, &WrappingKey::generate().unwrap(), RECIPIENT));
        for recipient in [
            Recipient { cluster_id: "d", ..RECIPIENT },
            Recipient { name: "m", ..RECIPIENT },
            Recipient { uid: "v", ..RECIPIENT },
        ] {
            assert!(!opens(&wrapped, &key, recipient), "{recipient:?}");
        }
        let mut bytes = STANDARD.decode(&wrapped.ciphertext).unwrap();
        bytes[0] ^= 1;
        assert!(!opens(&WrappedSecrets { ciphertext: STANDARD.encode(bytes), ..wrapped }, &key, RECIPIENT));
        for bad in ["", "AAAA", "not base64"] {
            assert!(secrets.wrap(bad, RECIPIENT).is_err(), "{bad:?}");
        }
    }
}
