//! The API's side of TLS.
//!
//! TLS 1.3 only: there is one client, keelctl, and what else speaks to it is recent. A client certificate is asked for and
//! may be absent, because the way to a certificate leads over this port too; one that is shown must be signed by the API's
//! authority. There is no resumption: a resumed session would carry a client's certificate on without looking at it again.

use std::sync::Arc;

use keelson_pki::{Authority, AuthorityError, AuthorityKind, Clock, Names, Pair, Profile, Subject, TrustAnchors};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the API's authority cannot be used to verify clients")]
    Authority(#[source] rustls::Error),
    #[error("the verifier of clients")]
    Verifier(#[from] VerifierBuilderError),
    #[error("the API's serving certificate is of no authority that this node believes")]
    Stranger,
    #[error("a certificate for a node without a cluster")]
    Passing(#[from] AuthorityError),
    #[error("the API's serving certificate cannot be used")]
    Serving(#[source] rustls::Error),
}

/// How a node serves that has no cluster: by an authority whose key is gone when this returns.
pub fn passing_config(name: &str, clock: Clock) -> Result<ServerConfig, TlsError> {
    let authority = Authority::create(AuthorityKind::Api, "none", clock)?;
    let pair = authority.issue(&Profile::server(Subject::named(name), Names::loopback()), clock)?;
    server_config(&pair, &authority.certificate().clone().into())
}

/// How the node serves with `serving`, which one of `authorities` has signed. That one is sent along, so that a client that
/// knows its fingerprint only can verify the chain.
pub fn server_config(serving: &Pair, authorities: &TrustAnchors) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = authorities.roots().map_err(TlsError::Authority)?;
    let issuer = authorities.issuer_of(serving.certificate()).ok_or(TlsError::Stranger)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Serving)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![serving.certificate().clone(), issuer.clone()], serving.private_key())
        .map_err(TlsError::Serving)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
