//! Whom a node believes: the certificates of the authorities, on a control plane and on a worker alike.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use keelson_api::TrustBundle;
use keelson_pki::{AuthorityKind, Fingerprint, TrustAnchors};

use crate::authorities::Authorities;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// For port 6400: nodes as servers, operators and nodes as clients.
    pub api: TrustAnchors,
    /// For Kubernetes' API servers and kubelets as servers.
    pub kubernetes_serving: TrustAnchors,
    /// For clients of Kubernetes' API servers and of kubelets.
    pub kubernetes_client: TrustAnchors,
}

#[derive(Debug, thiserror::Error)]
#[error("the cluster's authority {which} cannot be read")]
pub struct TrustError {
    which: &'static str,
}

impl Trust {
    pub fn of(authorities: &Authorities) -> Self {
        Self {
            api: authorities.anchors(AuthorityKind::Api),
            kubernetes_serving: authorities.anchors(AuthorityKind::KubernetesServing),
            kubernetes_client: authorities.anchors(AuthorityKind::KubernetesClient),
        }
    }

    pub fn from_bundle(bundle: &TrustBundle) -> Result<Self, TrustError> {
        let read = |which, pem: &str| TrustAnchors::from_pem(pem).map_err(|_| TrustError { which });
        Ok(Self {
            api: read("api", &bundle.api)?,
            kubernetes_serving: read("kubernetes-serving", &bundle.kubernetes_serving)?,
            kubernetes_client: read("kubernetes-client", &bundle.kubernetes_client)?,
        })
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle {
            api: self.api.pem(),
            kubernetes_serving: self.kubernetes_serving.pem(),
            kubernetes_client: self.kubernetes_client.pem(),
        }
    }

    /// What an operator compares, and what a token pins.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.api.certifier())
    }

    /// Those by which a node or an operator may know this cluster at the moment, [`Self::fingerprint`] first.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.api.fingerprints()
    }

    /// Whether a signature (ECDSA P-256 with SHA-256, ASN.1) proves that its maker has this key and knows this cluster: `message` makes of
    /// a fingerprint, in hexadecimal, what is to be signed, and any by which the cluster may be known will do.
    pub fn is_proven(&self, key: impl AsRef<[u8]>, signature: &[u8], message: impl Fn(&str) -> Vec<u8>) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
        let known = self.fingerprints();
        known.iter().any(|fingerprint| key.verify(&message(&fingerprint.hexadecimal()), signature).is_ok())
    }
}
