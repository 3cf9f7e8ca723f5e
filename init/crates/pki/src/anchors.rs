//! Trust anchors (RFC 5280, 6.1.1): whom one believes for one purpose.
//!
//! Usually that is one authority. While a cluster's authorities are exchanged for others, those of both generations are believed,
//! and the first of them is the one that certifies.

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::authority::Fingerprint;
use crate::pair::certificate_pem;

#[derive(Debug, thiserror::Error)]
#[error("there is no certificate of an authority")]
pub struct AnchorsError;

/// Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchors {
    certifier: CertificateDer<'static>,
    others: Vec<CertificateDer<'static>>,
}

impl From<CertificateDer<'static>> for TrustAnchors {
    fn from(certifier: CertificateDer<'static>) -> Self {
        Self { certifier, others: Vec::new() }
    }
}

impl TrustAnchors {
    /// Believes another one besides; one that is believed already changes nothing.
    #[must_use]
    pub fn and(mut self, other: CertificateDer<'static>) -> Self {
        if !self.iter().any(|known| *known == other) {
            self.others.push(other);
        }
        self
    }

    /// Certificates in PEM; the first one's authority certifies.
    ///
    /// # Errors
    /// If there is none, or one of them is no PEM.
    pub fn from_pem(pem: &str) -> Result<Self, AnchorsError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let mut certificates = certificates.map_err(|_| AnchorsError)?.into_iter();
        let certifier = certificates.next().ok_or(AnchorsError)?;
        Ok(certificates.fold(Self::from(certifier), Self::and))
    }

    /// The one that certifies first.
    pub fn pem(&self) -> String {
        self.iter().map(certificate_pem).collect()
    }

    /// In an order that does not depend on which of them certifies, for files whose readers start anew when they change.
    pub fn sorted_pem(&self) -> String {
        let mut sorted: Vec<_> = self.iter().map(certificate_pem).collect();
        sorted.sort_unstable();
        sorted.concat()
    }

    /// The certificate of the authority that certifies.
    pub fn certifier(&self) -> &CertificateDer<'static> {
        &self.certifier
    }

    pub fn iter(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.certifier).chain(&self.others)
    }

    /// In the order of [`Self::iter`].
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.iter().map(|certificate| Fingerprint::of(certificate)).collect()
    }

    /// # Errors
    /// If one of them cannot be an authority.
    pub fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.iter() {
            roots.add(certificate.clone())?;
        }
        Ok(roots)
    }

    /// Which of them has signed a certificate.
    pub fn issuer_of(&self, certificate: &CertificateDer<'_>) -> Option<&CertificateDer<'static>> {
        self.iter().find(|authority| is_signed_by(certificate, authority))
    }
}

/// By key, since all generations of an authority have the same name.
fn is_signed_by(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let (Ok((_, certificate)), Ok((_, authority))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(authority))
    else {
        return false;
    };
    certificate.verify_signature(Some(authority.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::{Authority, AuthorityKind, Clock, Names, Profile, Subject};

    #[test]
    fn the_first_one_certifies_and_the_order_of_files_does_not_tell_which() {
        let now = OffsetDateTime::now_utc();
        let clock = Clock { now, floor: now };
        let [old, new] = [(); 2].map(|()| Authority::create(AuthorityKind::Api, "c", clock).unwrap());
        let certificates = [&old, &new].map(|authority| authority.certificate().clone());
        let [one, other] = certificates.clone();
        let anchors = TrustAnchors::from(one.clone()).and(other.clone()).and(one.clone());
        assert_eq!(anchors.fingerprints(), [old.fingerprint(), new.fingerprint()]);
        assert_eq!(TrustAnchors::from_pem(&anchors.pem()).unwrap(), anchors);
        let turned = TrustAnchors::from(other).and(one);
        assert_ne!(turned.pem(), anchors.pem());
        assert_eq!(turned.sorted_pem(), anchors.sorted_pem());
        assert_eq!(anchors.roots().unwrap().len(), 2);

        let leaf = new.issue(&Profile::server(Subject::named("a"), Names::loopback()), clock).unwrap();
        assert_eq!(anchors.issuer_of(leaf.certificate()), Some(new.certificate()));
        assert_eq!(TrustAnchors::from(old.certificate().clone()).issuer_of(leaf.certificate()), None);
        for none in ["", "no PEM", "-----BEGIN CERTIFICATE-----\n"] {
            assert!(TrustAnchors::from_pem(none).is_err(), "{none:?}");
        }
    }
}
