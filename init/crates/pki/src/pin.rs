//! Trust by fingerprint: the node's certificate must chain to the authority whose SHA-256 is pinned.
//!
//! The node sends its authority behind its own certificate. The one that has the pinned fingerprint is taken as the only
//! root, and everything else (signature, name, purpose, validity) is verified by webpki as usual. Without one the handshake
//! fails, and what was shown instead is kept for the message.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::Fingerprint;

#[derive(Debug)]
pub struct PinnedVerifier {
    pin: Fingerprint,
    /// The organization that the server's subject must name, if any will not do.
    organization: Option<&'static str>,
    /// Whether its name matters.
    any_name: bool,
    provider: Arc<CryptoProvider>,
    /// The fingerprint of the last certificate of a chain in which the pinned one was not.
    found: Mutex<Option<String>>,
}

impl PinnedVerifier {
    pub fn new(pin: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self { pin, organization: None, any_name: false, provider, found: Mutex::default() }
    }

    /// Accepts servers of this organization only: an authority certifies several kinds of server.
    #[must_use]
    pub fn organization(mut self, organization: &'static str) -> Self {
        self.organization = Some(organization);
        self
    }

    /// Accepts servers whatever their names are: one that was reached through another.
    #[must_use]
    pub fn any_name(mut self) -> Self {
        self.any_name = true;
        self
    }

    /// What was shown instead of the pinned authority, if that is why the handshake failed.
    pub fn mismatch(&self) -> Option<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.pin);
        let Some(authority) = pinned else {
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
            let algorithms = self.algorithms().all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms)?;
            return Ok(ServerCertVerified::assertion());
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

fn is_of(certificate: &CertificateDer<'_>, organization: &str) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().iter_organization().any(|name| name.as_str() == Ok(organization)))
}
