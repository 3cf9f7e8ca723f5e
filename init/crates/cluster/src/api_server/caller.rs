//! Who is asking.

use std::net::IpAddr;

use keelson_api::OPERATORS;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The one at the other end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// No certificate of an operator was shown.
    Stranger { address: IpAddr },
    /// The TLS handshake has verified the certificate; it is good until it expires, which is checked at each request.
    Operator { name: String, expires: OffsetDateTime },
    /// Root, over the unix socket.
    Root,
}

impl Caller {
    /// Reads a certificate that the handshake has verified. One of the API's authority that is not an operator's (a node's
    /// own serving certificate, say) makes its holder a stranger.
    pub fn from_certificate(certificate: Option<&CertificateDer<'_>>, address: IpAddr) -> Self {
        certificate.and_then(operator).unwrap_or(Self::Stranger { address })
    }

    /// The operator's name if the caller may use the whole API at this moment.
    pub fn authorized(&self, now: OffsetDateTime) -> Option<&str> {
        match self {
            Self::Stranger { .. } => None,
            Self::Operator { name, expires } => (now <= *expires).then_some(name),
            Self::Root => Some("root"),
        }
    }

    /// The address by which attempts are limited; root's are not.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Stranger { address } => Some(*address),
            Self::Operator { .. } | Self::Root => None,
        }
    }
}

fn operator(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let is_operator = subject.iter_organization().any(|organization| organization.as_str() == Ok(OPERATORS));
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let expires = certificate.validity().not_after.to_datetime();
    is_operator.then_some(Caller::Operator { name, expires })
}
