//! Verifiers of the certificates that servers show.
//!
//! They differ in whom they believe ([`Belief`]). Whether a server holds the key of its certificate is what the handshake's signature tells,
//! and is checked here for all of them.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What a server has shown, and what it was called.
#[derive(Debug)]
pub struct Shown<'a> {
    pub end_entity: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
    pub server_name: &'a ServerName<'a>,
    pub ocsp_response: &'a [u8],
    pub now: UnixTime,
}

/// Whose certificate will do.
pub trait Belief: fmt::Debug + Send + Sync {
    fn check(&self, shown: &Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<(), Error>;
}

#[derive(Debug)]
pub struct Verifier<B> {
    pub(crate) belief: B,
    provider: Arc<CryptoProvider>,
}

/// Takes any certificate: for servers that have none that says anything, and that are told no secret.
#[derive(Debug)]
pub struct Anybody;

impl Belief for Anybody {
    fn check(&self, _shown: &Shown<'_>, _provider: &Arc<CryptoProvider>) -> Result<(), Error> {
        Ok(())
    }
}

impl Verifier<Anybody> {
    pub fn of_anybody(provider: Arc<CryptoProvider>) -> Self {
        Self::believing(Anybody, provider)
    }
}

impl<B> Verifier<B> {
    pub(crate) fn believing(belief: B, provider: Arc<CryptoProvider>) -> Self {
        Self { belief, provider }
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

impl<B: Belief> ServerCertVerifier for Verifier<B> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Shown { end_entity, intermediates, server_name, ocsp_response, now };
        self.belief.check(&shown, &self.provider)?;
        Ok(ServerCertVerified::assertion())
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

#[cfg(test)]
mod tests {
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::version::{TLS12, TLS13};
    use rustls::{
        CertificateError, ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
        crypto::aws_lc_rs,
    };
    use time::OffsetDateTime;

    use super::*;
    use crate::{Authority, AuthorityKind, Clock, Names, Pair, PinnedVerifier, Profile, Subject};

    /// Connects to a server that shows one certificate and signs with the key of another.
    fn handshake(
        verifier: Arc<dyn ServerCertVerifier>,
        chain: Vec<CertificateDer<'static>>,
        key: &Pair,
        version: &'static SupportedProtocolVersion,
    ) -> Result<(), Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = provider.key_provider.load_private_key(key.private_key())?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server))?;
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap())?;
        while client.is_handshaking() {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets()?;
            }
            let mut answered = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answered).unwrap();
            }
            let mut answered = answered.as_slice();
            while !answered.is_empty() {
                client.read_tls(&mut answered).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn whoever_is_believed_has_to_hold_the_certificates_key() {
        let now = OffsetDateTime::now_utc();
        let clock = Clock { now, floor: now };
        let authority = Authority::create(AuthorityKind::Api, "cluster", clock).unwrap();
        let profile = Profile::server(Subject::named("a"), Names::default().with_dns(["localhost".to_owned()]));
        let (own, other) = (authority.issue(&profile, clock).unwrap(), authority.issue(&profile, clock).unwrap());
        let chain = vec![own.certificate().clone(), authority.certificate().clone()];
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifiers: [Arc<dyn ServerCertVerifier>; 3] = [
            Arc::new(Verifier::of_anybody(Arc::clone(&provider))),
            Arc::new(PinnedVerifier::new(authority.fingerprint(), Arc::clone(&provider))),
            Arc::new(PinnedVerifier::new(authority.fingerprint(), Arc::clone(&provider)).any_name()),
        ];
        for verifier in verifiers {
            for version in [&TLS12, &TLS13] {
                handshake(Arc::clone(&verifier), chain.clone(), &own, version).unwrap();
                let error = handshake(Arc::clone(&verifier), chain.clone(), &other, version).unwrap_err();
                assert_eq!(error, Error::InvalidCertificate(CertificateError::BadSignature), "{verifier:?}");
            }
        }
        // Of the two, one takes what nobody vouches for.
        let alone = Authority::create(AuthorityKind::Api, "another", clock).unwrap();
        let stranger = alone.issue(&profile, clock).unwrap();
        let chain = vec![stranger.certificate().clone()];
        let anybody = Arc::new(Verifier::of_anybody(Arc::clone(&provider)));
        handshake(anybody, chain.clone(), &stranger, &TLS13).unwrap();
        let pinned = Arc::new(PinnedVerifier::new(authority.fingerprint(), provider));
        let error = handshake(Arc::clone(&pinned) as Arc<_>, chain, &stranger, &TLS13).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(pinned.mismatch().is_some());
    }
}
