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
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

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
    if files.allowed_hostnames.is_empty() && files.allowed_common_names.is_empty() {
        return Ok(verifier);
    }
    let name = |name: &String| ServerName::try_from(name.clone()).map_err(|_| TlsError::Name { name: name.clone() });
    let names = files.allowed_hostnames.iter().map(name).collect::<Result<_, _>>()?;
    Ok(Arc::new(NamedClients { verifier, names, common_names: files.allowed_common_names.clone() }))
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

/// Clients whose certificates are for one of some names, or have one of some common names.
#[derive(Debug)]
struct NamedClients {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
    common_names: Vec<String>,
}

impl NamedClients {
    fn is_named(&self, certificate: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        if self.names.iter().any(|name| verify_server_name(&parsed, name).is_ok()) {
            return Ok(true);
        }
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        // Of several the last counts, as in Go.
        let common_name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
        Ok(common_name.is_some_and(|name| self.common_names.iter().any(|allowed| allowed == name)))
    }
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
        if self.is_named(end_entity)? { Ok(verified) } else { Err(CertificateError::NotValidForName.into()) }
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn certificate(authority: &Authority, common_name: &str, host: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().der().clone()
    }

    #[test]
    fn members_are_let_in_by_their_host_or_their_common_name() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.crt");
        std::fs::write(&path, authority.pem()).unwrap();
        let one = certificate(&authority, "member", "one.example");
        let two = certificate(&authority, "other", "two.example");
        for (hostnames, common_names, expected) in [
            (&[][..], &[][..], [true, true]),
            (&["one.example", "three.example"][..], &[][..], [true, false]),
            (&[][..], &["other", "third"][..], [false, true]),
            // A host is no common name, nor the other way round.
            (&["other"][..], &[][..], [false, false]),
            (&[][..], &["one.example"][..], [false, false]),
        ] {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
            let files = TlsFiles {
                client_cert_auth: true,
                trusted_ca: Some(path.clone()),
                allowed_hostnames: list(hostnames),
                allowed_common_names: list(common_names),
                ..TlsFiles::default()
            };
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = verifier(&files, &path, provider).unwrap();
            let now = UnixTime::now();
            let admitted = [&one, &two].map(|member| verifier.verify_client_cert(member, &[], now).is_ok());
            assert_eq!(admitted, expected, "{files:?}");
        }
    }
}
