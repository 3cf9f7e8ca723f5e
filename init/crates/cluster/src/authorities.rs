//! The cluster's authorities on this control plane's disk: made once, then read, and exchanged for others when somebody knows their keys
//! who should not.
//!
//! Seven authorities are a generation. There are two generations at most, each in a place of its own below `/state/pki/authorities`
//! ([`generations`]): one certifies, and while they are exchanged ([`crate::rotation`]) certificates of the other are believed as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keelson_config::KeptError;
use keelson_pki::{
    Authority, AuthorityError, AuthorityKind, Clock, Files, FilesError, Mode, Owner, Pair, PairError, TrustAnchors,
};

use crate::identity::ClusterId;
use crate::secrets::EncryptionKeys;

pub mod generations;

use generations::{Believed, Slot};

#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("the authority {kind}")]
    Read { kind: &'static str, source: PairError },
    #[error("making the authority {kind}")]
    Create { kind: &'static str, source: AuthorityError },
    #[error("the authority {kind} is missing from STATE")]
    Missing { kind: &'static str },
    #[error("the cluster has not given the authority {kind}")]
    NotGiven { kind: &'static str },
    #[error("which authorities certify, on STATE")]
    Generations(#[from] KeptError),
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// What a control plane certifies with, and what it believes.
#[derive(Debug)]
pub struct Authorities {
    certifying: Generation,
    /// Whose certificates are believed besides.
    other: Option<Generation>,
    believed: Believed,
}

/// The seven, made at one time.
#[derive(Debug)]
pub struct Generation {
    kubernetes_serving: Authority,
    kubernetes_client: Authority,
    kubernetes_requests: Authority,
    front_proxy: Authority,
    store_client: Authority,
    store_peer: Authority,
    api: Authority,
}

impl Authorities {
    /// Makes whatever is missing. Authorities that an interrupted foundation left are taken up, since nothing was signed
    /// with them that left the node.
    pub fn create(
        files: &dyn Files,
        directory: &Path,
        cluster: &ClusterId,
        clock: Clock,
    ) -> Result<Self, AuthoritiesError> {
        let certifying = Generation::create(files, &Slot::First.directory(directory), cluster, clock)?;
        Ok(Self { certifying, other: None, believed: Believed::default() })
    }

    /// Reads them; a missing one is an error, because a new one would not be what the others trust.
    pub fn read(files: &dyn Files, directory: &Path) -> Result<Self, AuthoritiesError> {
        let believed = Believed::read(files, directory)?;
        let generation = |slot: Slot| Generation::read(files, &slot.directory(directory));
        Ok(Self {
            certifying: generation(believed.certifies)?,
            other: believed.other.then(|| generation(believed.certifies.other())).transpose()?,
            believed,
        })
    }

    /// Writes those that the cluster has given, by their names, in the place of what was there.
    pub fn install(
        files: &dyn Files,
        directory: &Path,
        contents: &BTreeMap<String, String>,
    ) -> Result<(), AuthoritiesError> {
        Generation::install(files, &Slot::First.directory(directory), contents)?;
        Ok(Believed::forget(files, directory)?)
    }

    /// Removes whatever there is of them.
    pub fn forget(files: &dyn Files, directory: &Path) -> Result<(), FilesError> {
        Believed::forget(files, directory)?;
        Slot::ALL.into_iter().try_for_each(|slot| {
            EncryptionKeys::forget(files, &slot.directory(directory))?;
            Generation::forget(files, &slot.directory(directory))
        })
    }

    /// The one that certifies.
    pub fn get(&self, kind: AuthorityKind) -> &Authority {
        self.certifying.get(kind)
    }

    /// Whom one believes who believes this authority.
    pub fn anchors(&self, kind: AuthorityKind) -> TrustAnchors {
        let anchors = TrustAnchors::from(self.get(kind).certificate().clone());
        self.other.iter().fold(anchors, |anchors, other| anchors.and(other.get(kind).certificate().clone()))
    }

    pub fn certifying(&self) -> &Generation {
        &self.certifying
    }

    pub fn other(&self) -> Option<&Generation> {
        self.other.as_ref()
    }

    pub fn believed(&self) -> Believed {
        self.believed
    }
}

impl Generation {
    /// Makes whatever is missing.
    pub fn create(
        files: &dyn Files,
        directory: &Path,
        cluster: &ClusterId,
        clock: Clock,
    ) -> Result<Self, AuthoritiesError> {
        files.directory(directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        Self::collect(|kind| match read(files, directory, kind)? {
            Some(authority) => Ok(authority),
            None => create(files, directory, kind, cluster, clock),
        })
    }

    pub fn read(files: &dyn Files, directory: &Path) -> Result<Self, AuthoritiesError> {
        Self::collect(|kind| read(files, directory, kind)?.ok_or(AuthoritiesError::Missing { kind: kind.name() }))
    }

    /// Writes the files of all seven, by the authorities' names, in the place of what was there.
    pub fn install(
        files: &dyn Files,
        directory: &Path,
        contents: &BTreeMap<String, String>,
    ) -> Result<(), AuthoritiesError> {
        files.directory(directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        for kind in AuthorityKind::ALL {
            let name = kind.name();
            let content = contents.get(name).ok_or(AuthoritiesError::NotGiven { kind: name })?;
            Pair::from_file(content.as_bytes()).map_err(|source| AuthoritiesError::Read { kind: name, source })?;
            files.update(&file(directory, kind), content.as_bytes(), Mode::SECRET, Owner::ROOT)?;
        }
        Ok(())
    }

    pub fn forget(files: &dyn Files, directory: &Path) -> Result<(), FilesError> {
        AuthorityKind::ALL.into_iter().try_for_each(|kind| files.remove(&file(directory, kind)))
    }

    fn collect<F>(mut authority: F) -> Result<Self, AuthoritiesError>
    where
        F: FnMut(AuthorityKind) -> Result<Authority, AuthoritiesError>,
    {
        Ok(Self {
            kubernetes_serving: authority(AuthorityKind::KubernetesServing)?,
            kubernetes_client: authority(AuthorityKind::KubernetesClient)?,
            kubernetes_requests: authority(AuthorityKind::KubernetesRequests)?,
            front_proxy: authority(AuthorityKind::FrontProxy)?,
            store_client: authority(AuthorityKind::StoreClient)?,
            store_peer: authority(AuthorityKind::StorePeer)?,
            api: authority(AuthorityKind::Api)?,
        })
    }

    pub fn get(&self, kind: AuthorityKind) -> &Authority {
        match kind {
            AuthorityKind::KubernetesServing => &self.kubernetes_serving,
            AuthorityKind::KubernetesClient => &self.kubernetes_client,
            AuthorityKind::KubernetesRequests => &self.kubernetes_requests,
            AuthorityKind::FrontProxy => &self.front_proxy,
            AuthorityKind::StoreClient => &self.store_client,
            AuthorityKind::StorePeer => &self.store_peer,
            AuthorityKind::Api => &self.api,
        }
    }

    /// The content of each one's file, with its key, by its name.
    pub fn contents(&self) -> BTreeMap<String, String> {
        self.by_name(|authority| String::from_utf8_lossy(&authority.pair().to_file()).into_owned())
    }

    /// The certificate of each, PEM, by its name.
    pub fn certificates(&self) -> BTreeMap<String, String> {
        self.by_name(Authority::certificate_pem)
    }

    fn by_name(&self, text: impl Fn(&Authority) -> String) -> BTreeMap<String, String> {
        AuthorityKind::ALL.into_iter().map(|kind| (kind.name().to_owned(), text(self.get(kind)))).collect()
    }
}

fn read(files: &dyn Files, directory: &Path, kind: AuthorityKind) -> Result<Option<Authority>, AuthoritiesError> {
    let Some(content) = files.read(&file(directory, kind))? else {
        return Ok(None);
    };
    let read_error = |source| AuthoritiesError::Read { kind: kind.name(), source };
    let pair = Pair::from_file(&content).map_err(read_error)?;
    Authority::from_pair(kind, pair).map(Some).map_err(|source| AuthoritiesError::Create { kind: kind.name(), source })
}

fn create(
    files: &dyn Files,
    directory: &Path,
    kind: AuthorityKind,
    cluster: &ClusterId,
    clock: Clock,
) -> Result<Authority, AuthoritiesError> {
    let authority = Authority::create(kind, cluster.as_str(), clock)
        .map_err(|source| AuthoritiesError::Create { kind: kind.name(), source })?;
    files.write(&file(directory, kind), &authority.pair().to_file(), Mode::SECRET, Owner::ROOT)?;
    Ok(authority)
}

fn file(directory: &Path, kind: AuthorityKind) -> PathBuf {
    directory.join(format!("{}.pem", kind.name()))
}
