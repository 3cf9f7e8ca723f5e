//! Who may connect, beyond having a certificate of an authority that is trusted.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};

use super::{TlsError, authorities, read};
use crate::flags::TlsFiles;

/// Whom an authority vouches for, unless revoked, and under one of the names if there are any.
pub(super) fn verifier(
    files: &TlsFiles,
    path: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(authorities(path)?);
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
    if let Some(path) = &files.revoked {
        // An authority without a list has revoked nothing, and etcd looks at the client's own certificate.
        verifier = verifier.with_crls(revocation_lists(path)?).allow_unknown_revocation_status();
        verifier = verifier.only_check_end_entity_revocation();
    }
    let verifier = verifier.build().map_err(|source| TlsError::Verifier { path: path.to_owned(), source })?;
    if files.allowed_hostnames.is_empty() {
        return Ok(verifier);
    }
    let name = |name: &String| ServerName::try_from(name.clone()).map_err(|_| TlsError::Name { name: name.clone() });
    let names = files.allowed_hostnames.iter().map(name).collect::<Result<_, _>>()?;
    Ok(Arc::new(NamedClients { verifier, names }))
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let content = read(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&content).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        // Not PEM: if it is no DER either, building the verifier says so.
        _ => Ok(vec![CertificateRevocationListDer::from(content)]),
    }
}

/// Clients whose certificates are for one of some names.
#[derive(Debug)]
struct NamedClients {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let named = self.names.iter().any(|name| verify_server_name(&certificate, name).is_ok());
        if named { Ok(verified) } else { Err(CertificateError::NotValidForName.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
