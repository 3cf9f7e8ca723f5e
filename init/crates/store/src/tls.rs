//! TLS of clients' and members' connections, with certificates that are replaced while it runs.
//!
//! Leaf certificates live for days and are renewed in place by whoever wrote them. Each new connection is offered what the
//! files hold then; a look at them is due at most once a second. What cannot be loaded is reported, and the last
//! good pair stays in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::flags::{TlsFiles, TlsVersions};

mod clients;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not PEM of the kind expected")]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("an authority in {path} cannot be used")]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the authorities in {path} cannot verify clients")]
    Verifier {
        path: PathBuf,
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    #[error("the certificate in {cert} and the key in {key} cannot be used together")]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{name:?} is no name that a client's certificate can be for")]
    Name { name: String },
    #[error("--cipher-suites names none that can be used")]
    CipherSuites,
    #[error("protocol versions")]
    Versions(#[source] rustls::Error),
    #[error(
        "members are reached over TLS, and no authority is named that could verify them: give --peer-trusted-ca-file"
    )]
    NoAuthority,
}

/// A TLS configuration that follows its files.
#[derive(Debug)]
pub(crate) struct Reloading<C> {
    files: TlsFiles,
    load: Load<C>,
    current: Mutex<Current<C>>,
}

type Load<C> = fn(&TlsFiles) -> Result<Arc<C>, TlsError>;

#[derive(Debug)]
struct Current<C> {
    config: Arc<C>,
    times: Vec<Option<SystemTime>>,
    looked: Instant,
}

/// What a listener does with who comes.
#[derive(Debug)]
pub(crate) struct Doorman {
    pub(crate) config: Arc<ServerConfig>,
    /// None where nobody has to show a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Doorman {
    /// Whether a certificate with those behind it would be let in at that time.
    pub(crate) fn admits(&self, chain: &[CertificateDer<'_>], when: UnixTime) -> bool {
        let Some(verifier) = &self.verifier else { return true };
        chain.split_first().is_some_and(|(own, others)| verifier.verify_client_cert(own, others, when).is_ok())
    }
}

impl Reloading<Doorman> {
    /// For a listener.
    pub(crate) fn server(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load(files, doorman)
    }
}

impl Reloading<ClientConfig> {
    /// For connections to other members, under the same certificate.
    pub(crate) fn client(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load(files, client_config)
    }
}

impl<C> Reloading<C> {
    fn load(files: &TlsFiles, load: Load<C>) -> Result<Self, TlsError> {
        // Times first: a replacement while loading is then noticed later.
        let times = times(files);
        let current = Current { config: load(files)?, times, looked: Instant::now() };
        Ok(Self { files: files.clone(), load, current: Mutex::new(current) })
    }

    pub(crate) fn current(&self) -> Arc<C> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_INTERVAL {
            current.looked = Instant::now();
            let times = times(&self.files);
            if times != current.times {
                match (self.load)(&self.files) {
                    Ok(config) => {
                        tracing::info!(cert = %self.files.cert.display(), "certificate loaded");
                        current.config = config;
                        current.times = times;
                    }
                    Err(error) => {
                        let error = crate::logging::chain(&error);
                        tracing::error!(
                            error,
                            "the certificate was replaced by one that cannot be used; the old one stays"
                        );
                    }
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn times(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    let paths = [Some(&files.cert), Some(&files.key), files.trusted_ca.as_ref(), files.revoked.as_ref()];
    let time = |path: Option<&PathBuf>| fs::metadata(path?).ok()?.modified().ok();
    paths.into_iter().map(time).collect()
}

fn doorman(files: &TlsFiles) -> Result<Arc<Doorman>, TlsError> {
    let provider = Arc::new(provider(files)?);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(files.versions))
        .map_err(TlsError::Versions)?;
    // As in etcd, naming an authority means that clients must show a certificate of it.
    let verifier = files.trusted_ca.as_ref().map(|path| clients::verifier(files, path, provider)).transpose()?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let (chain, key) = pair(files)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|source| unusable(files, source))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(Doorman { config: Arc::new(config), verifier }))
}

/// What may be used: with a list, of TLS 1.2 only what it names.
fn provider(files: &TlsFiles) -> Result<CryptoProvider, TlsError> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if files.cipher_suites.is_empty() {
        return Ok(provider);
    }
    let named = |suite: &SupportedCipherSuite| {
        suite.suite().as_str().is_some_and(|name| {
            // Some lists call these by the names that they had before their digest was part of it.
            let old = name.strip_suffix("_SHA256").filter(|name| name.ends_with("POLY1305"));
            files.cipher_suites.iter().any(|given| given == name || Some(given.as_str()) == old)
        })
    };
    let of_12 = |suite: &SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls12(_));
    provider.cipher_suites.retain(|suite| !of_12(suite) || named(suite));
    if provider.cipher_suites.iter().any(of_12) { Ok(provider) } else { Err(TlsError::CipherSuites) }
}

fn versions(versions: TlsVersions) -> Vec<&'static rustls::SupportedProtocolVersion> {
    match versions {
        TlsVersions::All => rustls::ALL_VERSIONS.to_vec(),
        TlsVersions::Only12 => vec![&rustls::version::TLS12],
        TlsVersions::Only13 => vec![&rustls::version::TLS13],
    }
}

fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = authorities(files.trusted_ca.as_ref().ok_or(TlsError::NoAuthority)?)?;
    let (chain, key) = pair(files)?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider(files)?))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|source| unusable(files, source))?;
    Ok(Arc::new(config))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn pair(files: &TlsFiles) -> Result<Pair, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|source| TlsError::Pem { path: files.key.clone(), source })?;
    Ok((chain, key))
}

fn unusable(files: &TlsFiles, source: rustls::Error) -> TlsError {
    TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites(names: &[&str]) -> Result<Vec<String>, TlsError> {
        let files =
            TlsFiles { cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(), ..TlsFiles::default() };
        let suites = provider(&files)?.cipher_suites;
        Ok(suites.iter().map(|suite| format!("{:?}", suite.suite())).collect())
    }

    #[test]
    fn a_list_of_cipher_suites_leaves_what_it_names_and_tls_1_3() {
        let all = suites(&[]).unwrap();
        let newest: Vec<String> = all.iter().filter(|name| name.starts_with("TLS13_")).cloned().collect();
        let of_12 = |names: &[&str]| {
            let mut left = suites(names).unwrap();
            left.retain(|name| !newest.contains(name));
            left
        };
        assert!(newest.len() >= 2 && all.len() > newest.len());
        let (gcm, chacha) = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305");
        // Of a list for etcd some are too weak to be there at all.
        assert_eq!(of_12(&[gcm, "TLS_RSA_WITH_AES_128_CBC_SHA"]), [gcm]);
        assert_eq!(of_12(&[chacha]), [format!("{chacha}_SHA256")]);
        assert!(matches!(suites(&["TLS_RSA_WITH_AES_128_CBC_SHA"]), Err(TlsError::CipherSuites)));
    }
}
