//! The cluster's authorities on this control plane's disk: made once, then read.

use std::collections::BTreeMap;
use std::path::Path;

use keelson_pki::{Authority, AuthorityError, AuthorityKind, Clock, Files, FilesError, Mode, Owner, Pair, PairError};

use crate::identity::ClusterId;

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
    #[error(transparent)]
    Files(#[from] FilesError),
}

#[derive(Debug)]
pub struct Authorities {
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
        files.directory(directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        Self::collect(|kind| match read(files, directory, kind)? {
            Some(authority) => Ok(authority),
            None => create(files, directory, kind, cluster, clock),
        })
    }

    /// Reads them; a missing one is an error, because a new one would not be what the others trust.
    pub fn read(files: &dyn Files, directory: &Path) -> Result<Self, AuthoritiesError> {
        Self::collect(|kind| read(files, directory, kind)?.ok_or(AuthoritiesError::Missing { kind: kind.name() }))
    }

    /// Writes those that the cluster has given, by their names, in the place of what was there.
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

    /// Removes whatever there is of them.
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

fn file(directory: &Path, kind: AuthorityKind) -> std::path::PathBuf {
    directory.join(format!("{}.pem", kind.name()))
}
