//! Who is asking.

use std::net::IpAddr;

use keelson_api::{NODES, OPERATORS};
use keelson_pki::profile::UID_ATTRIBUTE;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::der_parser::Oid;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::limiter::Trying;

/// What stands before a node's name in its certificate for this API.
pub const NODE_PREFIX: &str = "keelson:node:";

/// The one at the other end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// No certificate of an operator was shown.
    Stranger { address: IpAddr },
    /// The TLS handshake has verified the certificate; it is good until it expires, which is checked at each request.
    /// `key` is the id of the key that it was obtained with ([`crate::operators::id_of`]); whether that is the cluster's still is for the
    /// records to say.
    Operator { name: String, key: String, expires: OffsetDateTime },
    /// A node of the cluster, by a certificate that is checked like an operator's; whether it is still a member is for
    /// the records to say.
    Node { name: String, uid: String, address: IpAddr, expires: OffsetDateTime },
    /// Root, over the unix socket.
    Root,
}

impl Caller {
    /// Reads a certificate that the handshake has verified. One of the API's authority that is not an operator's (a node's
    /// own serving certificate, say) makes its holder a stranger.
    pub fn from_certificate(certificate: Option<&CertificateDer<'_>>, address: IpAddr) -> Self {
        certificate.and_then(|certificate| known(certificate, address)).unwrap_or(Self::Stranger { address })
    }

    /// Whether the caller is a node at this moment.
    pub fn is_node(&self, now: OffsetDateTime) -> bool {
        matches!(self, Self::Node { expires, .. } if now <= *expires)
    }

    /// The operator's name if the caller may use the whole API at this moment.
    pub fn authorized(&self, now: OffsetDateTime) -> Option<&str> {
        match self {
            Self::Stranger { .. } | Self::Node { .. } => None,
            Self::Operator { name, expires, .. } => (now <= *expires).then_some(name),
            Self::Root => Some("root"),
        }
    }

    /// The operator's key, if the caller has one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Operator { key, .. } => Some(key),
            Self::Stranger { .. } | Self::Node { .. } | Self::Root => None,
        }
    }

    /// By what attempts are limited; those of operators and of root are not.
    pub fn trying(&self) -> Option<Trying> {
        match self {
            Self::Stranger { address } => Some(Trying::Address(*address)),
            Self::Node { uid, .. } => Some(Trying::Node(uid.clone())),
            Self::Operator { .. } | Self::Root => None,
        }
    }

    /// Where a stranger or a node is.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Stranger { address } | Self::Node { address, .. } => Some(*address),
            Self::Operator { .. } | Self::Root => None,
        }
    }
}

fn known(certificate: &CertificateDer<'_>, address: IpAddr) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let of = |group: &str| subject.iter_organization().any(|organization| organization.as_str() == Ok(group));
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let expires = certificate.validity().not_after.to_datetime();
    let is_uid = |kind: &Oid<'_>| kind.iter().is_some_and(|arcs| arcs.eq(UID_ATTRIBUTE.iter().copied()));
    let uid = subject.iter_attributes().find(|attribute| is_uid(attribute.attr_type()))?.as_str().ok()?.to_owned();
    if of(OPERATORS) {
        return Some(Caller::Operator { name: name.to_owned(), key: uid, expires });
    }
    let name = name.strip_prefix(NODE_PREFIX).filter(|_| of(NODES))?.to_owned();
    Some(Caller::Node { name, uid, address, expires })
}
