//! A certificate with its key, and the one file that holds both.
//!
//! Layout of the file: a line `keelson pair 1 1` (what it is, its version, the oldest version that can read it), then the
//! certificate and the key (PKCS#8) in PEM. Text before the first PEM label is explanatory by RFC 7468, 5.2, so
//! Go's and rustls' readers take the same file for the certificate and for the key: `--tls-cert-file` and
//! `--tls-private-key-file` name it twice, and a renewal is one rename.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::profile::{Names, Profile, Subject};
use crate::validity::Validity;

/// What the file is, its version, and the oldest version that can read it.
const HEADER: &str = "keelson pair 1 1\n";
const MAGIC: &str = "keelson pair ";
/// Versions up to this one are understood.
const VERSION: u32 = 1;
/// RFC 7468, 2: lines of 64 characters.
const PEM_LINE: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("this is not a file of a key and its certificate")]
    Header,
    #[error("written by a later release, which version {oldest} or later can read; this one reads up to {VERSION}")]
    TooNew { oldest: u32 },
    #[error("the certificate is malformed")]
    Certificate,
    #[error("the key is malformed")]
    Key,
    #[error("the key is not the certificate's")]
    Mismatch,
    #[error("signing with the certificate's key")]
    Sign,
}

pub struct Pair {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pair").field("names", &self.names().ok()).finish_non_exhaustive()
    }
}

impl Pair {
    pub(crate) fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Self {
        Self { certificate, key }
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// ECDSA with SHA-256, ASN.1.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PairError> {
        rcgen::SigningKey::sign(&self.key, message).map_err(|_| PairError::Sign)
    }

    /// The content of the pair's file.
    pub fn to_file(&self) -> Vec<u8> {
        let mut text = String::from(HEADER);
        text.push_str(&certificate_pem(&self.certificate));
        text.push_str(&private_key_pem(self.key.serialized_der()));
        text.into_bytes()
    }

    pub fn from_file(content: &[u8]) -> Result<Self, PairError> {
        check_header(content)?;
        let certificate = CertificateDer::from_pem_slice(content).map_err(|_| PairError::Certificate)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(content).map_err(|_| PairError::Key)?;
        Self::checked(certificate, key_pair(&key)?)
    }

    /// Refuses a key that is not the certificate's.
    pub(crate) fn checked(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, PairError> {
        let pair = Self { certificate, key };
        if pair.parsed()?.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&pair.key) {
            return Err(PairError::Mismatch);
        }
        Ok(pair)
    }

    pub(crate) fn copy_key(&self) -> Result<KeyPair, PairError> {
        key_pair(&PrivatePkcs8KeyDer::from(self.key.serialized_der()))
    }

    pub fn validity(&self) -> Result<Validity, PairError> {
        let parsed = self.parsed()?;
        let validity = parsed.validity();
        Ok(Validity { not_before: validity.not_before.to_datetime(), not_after: validity.not_after.to_datetime() })
    }

    /// Whom it names; none if it has other attributes than ours.
    pub fn subject(&self) -> Option<Subject> {
        subject(&self.parsed().ok()?)
    }

    /// Whether this certificate is what `profile` describes, apart from its age, and signed by `authority`.
    pub fn matches(&self, profile: &Profile, authority: &CertificateDer<'_>) -> bool {
        let (Ok(own), Ok((_, issuer))) = (self.parsed(), X509Certificate::from_der(authority)) else {
            return false;
        };
        let usage =
            own.extended_key_usage().ok().flatten().map(|usage| (usage.value.client_auth, usage.value.server_auth));
        let wanted = profile.usage.extended();
        own.issuer().as_raw() == issuer.subject().as_raw()
            && own.verify_signature(Some(issuer.public_key())).is_ok()
            && subject(&own).as_ref() == Some(&profile.subject)
            && self.names().is_ok_and(|names| names == profile.names)
            && usage
                == Some((
                    wanted.contains(&rcgen::ExtendedKeyUsagePurpose::ClientAuth),
                    wanted.contains(&rcgen::ExtendedKeyUsagePurpose::ServerAuth),
                ))
    }

    fn names(&self) -> Result<Names, PairError> {
        let parsed = self.parsed()?;
        let mut names = Names::default();
        let Some(extension) = parsed.subject_alternative_name().map_err(|_| PairError::Certificate)? else {
            return Ok(names);
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    names.dns.insert((*name).to_owned());
                }
                GeneralName::IPAddress(octets) => {
                    names.addresses.insert(address(octets).ok_or(PairError::Certificate)?);
                }
                _ => return Err(PairError::Certificate),
            }
        }
        Ok(names)
    }

    fn parsed(&self) -> Result<X509Certificate<'_>, PairError> {
        X509Certificate::from_der(&self.certificate).map(|(_, parsed)| parsed).map_err(|_| PairError::Certificate)
    }
}

pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

/// A PKCS#8 key in PEM, for a file of its own.
pub fn private_key_pem(key: &[u8]) -> String {
    pem("PRIVATE KEY", key)
}

/// RFC 7468's strict form.
pub(crate) fn pem(label: &str, content: &[u8]) -> String {
    let encoded = STANDARD.encode(content);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, character) in encoded.chars().enumerate() {
        if index > 0 && index % PEM_LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    // Writing to a string does not fail.
    let _ = write!(text, "\n-----END {label}-----\n");
    text
}

fn check_header(content: &[u8]) -> Result<(), PairError> {
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let versions = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(MAGIC)).ok_or(PairError::Header)?;
    let (_, oldest) = versions.split_once(' ').ok_or(PairError::Header)?;
    let oldest = oldest.parse().map_err(|_| PairError::Header)?;
    if oldest > VERSION { Err(PairError::TooNew { oldest }) } else { Ok(()) }
}

pub(crate) fn key_pair(key: &PrivatePkcs8KeyDer<'_>) -> Result<KeyPair, PairError> {
    KeyPair::from_pkcs8_der_and_sign_algo(key, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| PairError::Key)
}

fn address(octets: &[u8]) -> Option<std::net::IpAddr> {
    <[u8; 4]>::try_from(octets).map(Into::into).ok().or_else(|| <[u8; 16]>::try_from(octets).map(Into::into).ok())
}

/// The subject, if it has no other attributes than ours.
fn subject(certificate: &X509Certificate<'_>) -> Option<Subject> {
    let uid_attribute = crate::profile::UID_ATTRIBUTE;
    let mut subject = Subject { common_name: String::new(), organization: None, uid: None };
    for attribute in certificate.subject().iter_attributes() {
        let value = attribute.as_str().ok()?.to_owned();
        let kind = attribute.attr_type();
        if *kind == x509_parser::oid_registry::OID_X509_COMMON_NAME {
            subject.common_name = value;
        } else if *kind == x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME {
            subject.organization = Some(value);
        } else if kind.iter().is_some_and(|arcs| arcs.eq(uid_attribute.iter().copied())) {
            subject.uid = Some(value);
        } else {
            return None;
        }
    }
    Some(subject)
}

#[cfg(test)]
mod tests;
