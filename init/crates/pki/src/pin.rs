//! Trust by fingerprint: the node's certificate must chain to an authority whose SHA-256 is pinned.
//!
//! The node sends its authority behind its own certificate. One that has a pinned fingerprint is taken as the only
//! root, and everything else (signature, name, purpose, validity) is verified by webpki as usual. Without one the handshake
//! fails, and what was shown instead is kept for the message.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _, verify_server_cert_signed_by_trust_anchor},
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::Fingerprint;
use crate::verifier::{Belief, Shown, Verifier};

pub type PinnedVerifier = Verifier<Pinned>;

#[derive(Debug)]
pub struct Pinned {
    pins: Vec<Fingerprint>,
    /// The organization that the server's subject must name, if any will not do.
    organization: Option<&'static str>,
    /// Whether its name matters.
    any_name: bool,
    /// The fingerprint of the last certificate of a chain in which no pinned one was.
    found: Mutex<Option<String>>,
}

impl PinnedVerifier {
    pub fn new(pin: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self::of_any(vec![pin], provider)
    }

    /// Takes whichever of several authorities is there.
    pub fn of_any(pins: Vec<Fingerprint>, provider: Arc<CryptoProvider>) -> Self {
        Self::believing(Pinned { pins, organization: None, any_name: false, found: Mutex::default() }, provider)
    }

    /// Accepts servers of this organization only: an authority certifies several kinds of server.
    #[must_use]
    pub fn organization(mut self, organization: &'static str) -> Self {
        self.belief.organization = Some(organization);
        self
    }

    /// Accepts servers whatever their names are: one that was reached through another.
    #[must_use]
    pub fn any_name(mut self) -> Self {
        self.belief.any_name = true;
        self
    }

    /// What was shown instead of the pinned authority, if that is why the handshake failed.
    pub fn mismatch(&self) -> Option<String> {
        self.belief.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Belief for Pinned {
    fn check(&self, shown: &Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<(), Error> {
        let Shown { end_entity, intermediates, server_name, ocsp_response, now } = *shown;
        let is_pinned = |certificate: &&CertificateDer<'_>| self.pins.contains(&Fingerprint::of(certificate));
        let Some(authority) = intermediates.iter().find(is_pinned) else {
            let last = intermediates.last().unwrap_or(end_entity);
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            *found = Some(Fingerprint::of(last).to_string());
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        if self.organization.is_some_and(|organization| !is_of(end_entity, organization)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if self.any_name {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = provider.signature_verification_algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms);
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map(drop)
    }
}

/// Whether a certificate's subject names this organization.
pub fn is_of(certificate: &CertificateDer<'_>, organization: &str) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().iter_organization().any(|name| name.as_str() == Ok(organization)))
}
