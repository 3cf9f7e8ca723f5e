//! The authorities of a cluster. Each certifies for one purpose, so that no certificate made for one door opens another.
//!
//! | authority | certifies | trusted by |
//! |---|---|---|
//! | kubernetes-serving | API servers, kubelets as servers | every client of the Kubernetes API, pods |
//! | kubernetes-client | components, nodes, operators as clients | kube-apiserver, kubelet |
//! | kubernetes-requests | what `CertificateSigningRequest` objects ask for, signed by the controller manager | kube-apiserver |
//! | front-proxy | kube-apiserver in front of aggregated API servers | kube-apiserver, aggregated API servers |
//! | store-client | the store's client port, both sides | keelson-store, kube-apiserver |
//! | store-peer | the store's members among themselves | keelson-store |
//! | api | keelson-cluster on 6400, operators as its clients | keelctl, keelson-cluster |
//!
//! The controller manager gets an authority of its own because it must hold the key: the one that certifies nodes and
//! components never leaves keelson-cluster. Every authority's certificate carries path length zero (RFC 5280, 4.2.1.9),
//! and its extended key usage names one side only where it serves one: Go and OpenSSL apply it to all that it signs. webpki
//! looks at a root's name and key alone, so a program of ours that verifies must trust one authority for one purpose.

use std::fmt::{self, Write as _};

use aws_lc_rs::{digest, rand};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use crate::pair::{self, Pair, PairError};
use crate::profile::{Profile, Subject};
use crate::validity::{AUTHORITY_LIFE, Clock, Validity};

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("making a key")]
    Key(#[source] rcgen::Error),
    #[error("the system's random numbers are not available")]
    Random,
    #[error("certifying {name}")]
    Sign { name: String, source: rcgen::Error },
    #[error("the certificate request is malformed or not signed by its own key")]
    Request(#[source] rcgen::Error),
    #[error("the certificate request's key is of a kind that is not accepted; use ECDSA P-256 or P-384, or Ed25519")]
    RequestKey,
    #[error("the authority's own certificate")]
    Pair(#[from] PairError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthorityKind {
    KubernetesServing,
    KubernetesClient,
    KubernetesRequests,
    FrontProxy,
    StoreClient,
    StorePeer,
    Api,
}

impl AuthorityKind {
    pub const ALL: [Self; 7] = [
        Self::KubernetesServing,
        Self::KubernetesClient,
        Self::KubernetesRequests,
        Self::FrontProxy,
        Self::StoreClient,
        Self::StorePeer,
        Self::Api,
    ];

    /// The name of its file and, with the cluster's id, of its subject.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubernetesServing => "kubernetes-serving",
            Self::KubernetesClient => "kubernetes-client",
            Self::KubernetesRequests => "kubernetes-requests",
            Self::FrontProxy => "front-proxy",
            Self::StoreClient => "store-client",
            Self::StorePeer => "store-peer",
            Self::Api => "api",
        }
    }

    fn extended_usage(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::KubernetesServing => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::KubernetesClient | Self::KubernetesRequests | Self::FrontProxy => {
                vec![ExtendedKeyUsagePurpose::ClientAuth]
            }
            Self::StoreClient | Self::StorePeer | Self::Api => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        }
    }
}

/// SHA-256 of a certificate's DER form: what an operator compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// 64 lower-case digits.
    pub fn hexadecimal(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Of 64 digits in lower case; `None` for anything else.
    pub fn from_hexadecimal(digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if digits.len() != 64 || digits.bytes().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.hexadecimal())
    }
}

/// A certificate that this process may sign with.
pub struct Authority {
    kind: AuthorityKind,
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority. The subject names the cluster, so that two clusters' authorities can be told apart.
    pub fn create(kind: AuthorityKind, cluster: &str, clock: Clock) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Key)?;
        let subject = Subject::named(format!("{} {cluster}", kind.name())).organization("keelson");
        let mut params = CertificateParams::default();
        params.distinguished_name = subject.distinguished_name();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = kind.extended_usage();
        apply(&mut params, clock.validity(AUTHORITY_LIFE))?;
        let certificate = params
            .self_signed(&key)
            .map_err(|source| AuthorityError::Sign { name: subject.common_name.clone(), source })?;
        Self::from_pair(kind, Pair::new(certificate.der().clone(), key))
    }

    /// Takes an authority up again from its file.
    pub fn from_pair(kind: AuthorityKind, pair: Pair) -> Result<Self, AuthorityError> {
        let key = pair.copy_key()?;
        let issuer = Issuer::from_ca_cert_der(pair.certificate(), key)
            .map_err(|source| AuthorityError::Sign { name: kind.name().to_owned(), source })?;
        Ok(Self { kind, pair, issuer })
    }

    pub fn kind(&self) -> AuthorityKind {
        self.kind
    }

    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.pair.certificate()
    }

    pub fn certificate_pem(&self) -> String {
        pair::certificate_pem(self.certificate())
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.certificate())
    }

    /// Makes a key and certifies it.
    pub fn issue(&self, profile: &Profile, clock: Clock) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Key)?;
        let certificate = self.certify(profile, &key, clock)?;
        Ok(Pair::new(certificate, key))
    }

    /// Certifies the key of a request (PKCS#10, PEM) under the names of `profile`: nothing but the key is taken from it.
    pub fn issue_for_request(
        &self,
        profile: &Profile,
        request: &str,
        clock: Clock,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.certify(profile, &read_request(request)?.public_key, clock)
    }

    fn certify(
        &self,
        profile: &Profile,
        key: &impl PublicKeyData,
        clock: Clock,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let sign_error = |source| AuthorityError::Sign { name: profile.subject.common_name.clone(), source };
        let mut params = profile.params().map_err(sign_error)?;
        apply(&mut params, clock.validity(profile.life))?;
        Ok(params.signed_by(key, &self.issuer).map_err(sign_error)?.into())
    }
}

/// The public key of a request (PKCS#10, PEM) as DER `SubjectPublicKeyInfo`; whoever made the request holds its key.
pub fn request_key(request: &str) -> Result<Vec<u8>, AuthorityError> {
    Ok(read_request(request)?.public_key.subject_public_key_info())
}

fn read_request(request: &str) -> Result<CertificateSigningRequestParams, AuthorityError> {
    let request = CertificateSigningRequestParams::from_pem(request).map_err(AuthorityError::Request)?;
    let algorithm = PublicKeyData::algorithm(&request.public_key);
    let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if accepted.contains(&algorithm) { Ok(request) } else { Err(AuthorityError::RequestKey) }
}

/// Life and serial number. Serial numbers are random: two certificates of one key must differ, RFC 5280, 4.1.2.2.
fn apply(params: &mut CertificateParams, validity: Validity) -> Result<(), AuthorityError> {
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    let mut serial = [0_u8; 16];
    rand::fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // A positive number without leading zeros, whatever was drawn.
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

#[cfg(test)]
mod tests;
