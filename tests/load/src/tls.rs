//! One authority for servers, members and clients: mutual TLS everywhere, as on a node.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::error::Error;

#[derive(Debug)]
pub(crate) struct Authority {
    folder: PathBuf,
    client: ClientTlsConfig,
}

impl Authority {
    /// Makes the files: `ca.crt`, and `server.crt` with its key, which is for this host.
    pub(crate) fn create(folder: &Path) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(Error::Certificates)?)
            .map_err(Error::Certificates)?;
        let issue = || {
            let key = KeyPair::generate()?;
            let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
            Ok::<_, rcgen::Error>((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) = issue().map_err(Error::Certificates)?;
        for (name, text) in [("ca.crt", &issuer.pem()), ("server.crt", &certificate), ("server.key", &key)] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(Error::file("write", path))?;
        }
        let (certificate, key) = issue().map_err(Error::Certificates)?;
        let client = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(issuer.pem()))
            .identity(Identity::from_pem(certificate, key))
            .domain_name("localhost");
        Ok(Self { folder: folder.to_owned(), client })
    }

    pub(crate) fn client(&self) -> ClientTlsConfig {
        self.client.clone()
    }

    /// The flags of etcd, which are those of the store.
    pub(crate) fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let pair = |prefix: &str| {
            vec![
                format!("--{prefix}cert-file={}", file("server.crt")),
                format!("--{prefix}key-file={}", file("server.key")),
                format!("--{prefix}trusted-ca-file={}", file("ca.crt")),
                format!("--{prefix}client-cert-auth"),
            ]
        };
        [pair(""), pair("peer-")].concat()
    }
}
