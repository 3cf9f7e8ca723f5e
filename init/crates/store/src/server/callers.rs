//! Who calls, and about whose keys: the cluster's own client may say that a call is about those of the cluster; see [`crate::cluster_keys`].

use keelson_etcd_api::{CLUSTER_KEYS, CLUSTER_KEYS_VALUE};
use rustls_pki_types::CertificateDer;
use tonic::Request;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::errors::Error;
use crate::state::Keys;

/// The client of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Caller {
    #[default]
    Other,
    /// The one that was named as the cluster's.
    Cluster,
}

impl Caller {
    /// Whom a certificate makes of a client. The listener has verified it.
    pub(super) fn new(cluster_client: Option<&str>, certificate: Option<&CertificateDer<'_>>) -> Self {
        let named = cluster_client.zip(certificate).is_some_and(|(name, certificate)| is_named(certificate, name));
        if named { Self::Cluster } else { Self::Other }
    }

    /// Of a request that came over a connection; anything else is this process' own.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().copied().unwrap_or_default()
    }
}

/// Whose keys a request is about.
pub(super) fn keys<T>(request: &Request<T>) -> Result<Keys, Error> {
    match request.metadata().get(CLUSTER_KEYS) {
        None => Ok(Keys::Public),
        Some(value) if value == CLUSTER_KEYS_VALUE && Caller::of(request) == Caller::Cluster => Ok(Keys::Cluster),
        Some(_) => Err(Error::PermissionDenied),
    }
}

fn is_named(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut names = certificate.subject().iter_common_name();
    // Exactly one: with several, it is not said which is meant.
    let first = names.next().and_then(|first| first.as_str().ok());
    first == Some(name) && names.next().is_none()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["keelson-cluster".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_client_is_known_by_its_common_name() {
        let (own, other) = (certificate("keelson-cluster"), certificate("kube-apiserver"));
        let caller = |certificate| Caller::new(Some("keelson-cluster"), certificate);
        assert_eq!(caller(Some(&own)), Caller::Cluster);
        assert_eq!(caller(Some(&other)), Caller::Other, "an alternative name is no common name");
        assert_eq!(caller(None), Caller::Other);
        assert_eq!(caller(Some(&CertificateDer::from(vec![1, 2, 3]))), Caller::Other);
        assert_eq!(Caller::new(None, Some(&own)), Caller::Other);
    }

    #[test]
    fn only_the_clusters_client_asks_for_its_keys_and_only_by_saying_so() {
        let asked = |caller: Caller, value: Option<&'static str>| {
            let mut request = Request::new(());
            request.extensions_mut().insert(caller);
            if let Some(value) = value {
                request.metadata_mut().insert(CLUSTER_KEYS, value.parse().unwrap());
            }
            keys(&request)
        };
        for caller in [Caller::Other, Caller::Cluster] {
            assert_eq!(asked(caller, None), Ok(Keys::Public));
            assert_eq!(asked(caller, Some("others")), Err(Error::PermissionDenied));
        }
        assert_eq!(asked(Caller::Cluster, Some("cluster")), Ok(Keys::Cluster));
        assert_eq!(asked(Caller::Other, Some("cluster")), Err(Error::PermissionDenied));
        assert_eq!(keys(&Request::new(())), Ok(Keys::Public));
    }
}
