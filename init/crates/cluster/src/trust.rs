//! Whom a node believes: the certificates of the authorities, on a control plane and on a worker alike.

use keelson_api::TrustBundle;
use keelson_pki::pair::certificate_pem;
use keelson_pki::{AuthorityKind, Fingerprint};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::authorities::Authorities;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// For port 6400: nodes as servers, operators and nodes as clients.
    pub api: CertificateDer<'static>,
    /// For Kubernetes' API servers and kubelets as servers.
    pub kubernetes_serving: CertificateDer<'static>,
    /// For clients of Kubernetes' API servers and of kubelets.
    pub kubernetes_client: CertificateDer<'static>,
}

#[derive(Debug, thiserror::Error)]
#[error("the cluster's authority {which} cannot be read")]
pub struct TrustError {
    which: &'static str,
}

impl Trust {
    pub fn of(authorities: &Authorities) -> Self {
        let certificate = |kind| authorities.get(kind).certificate().clone();
        Self {
            api: certificate(AuthorityKind::Api),
            kubernetes_serving: certificate(AuthorityKind::KubernetesServing),
            kubernetes_client: certificate(AuthorityKind::KubernetesClient),
        }
    }

    pub fn from_bundle(bundle: &TrustBundle) -> Result<Self, TrustError> {
        let read = |which, pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| TrustError { which });
        Ok(Self {
            api: read("api", &bundle.api)?,
            kubernetes_serving: read("kubernetes-serving", &bundle.kubernetes_serving)?,
            kubernetes_client: read("kubernetes-client", &bundle.kubernetes_client)?,
        })
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle {
            api: certificate_pem(&self.api),
            kubernetes_serving: certificate_pem(&self.kubernetes_serving),
            kubernetes_client: certificate_pem(&self.kubernetes_client),
        }
    }

    /// What an operator compares, and what a token pins.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.api)
    }
}
