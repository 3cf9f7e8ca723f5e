//! What operators have said of the cluster and of this node, and what becomes of it here.
//!
//! A control plane reads it from the records that it follows, a worker is told with its settings. Every node keeps it on
//! STATE ([`keelson_config::scopes`]), where its next boot reads it as the source behind the kernel command line.
//!
//! Three things take less than a boot:
//!
//! - Names in certificates and the OpenID Connect issuer are settled with the components' files, which the components
//!   read again by themselves.
//! - Labels and taints of the Node are stated by the control plane that leads ([`crate::features::labels`]).
//! - Extra arguments and the virtual address are those that were known when this process took the node's place in the
//!   cluster. So a node that has just joined has them, and no order makes every API server start anew at one moment.

use std::sync::Arc;

use keelson_api::{NodeScopes, NodeSettings};
use keelson_config::{Kept as _, KeptError, NodeConfig, Origin, Scopes, Source};
use keelson_pki::{Files, FilesError, Mode, Owner};

use crate::paths::Paths;

/// What takes effect while a node runs.
const LIVE: [&str; 4] = ["spec.node.labels", "spec.node.taints", "spec.cluster.extraSANs", "spec.cluster.oidc"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("operators' settings on STATE")]
    Form(#[from] KeptError),
    #[error("the work was interrupted")]
    Interrupted,
}

pub fn needs_no_boot(field: &str) -> bool {
    LIVE.contains(&field)
}

/// Whether operators have said it, as opposed to the machine's own sources.
pub fn is_of_operators(source: &Source) -> bool {
    matches!(source.origin, Origin::Cluster(_))
}

/// What a node was told; none by a control plane of an older release.
pub fn told(settings: &NodeSettings) -> Option<Scopes> {
    let NodeScopes { node, cluster } = settings.configuration.clone()?;
    Some(Scopes { node, cluster })
}

/// Takes from `settled` what takes effect while a node runs.
pub fn take_live(config: &mut NodeConfig, settled: &NodeConfig) {
    config.labels.clone_from(&settled.labels);
    config.taints.clone_from(&settled.taints);
    config.cluster.extra_sans.clone_from(&settled.cluster.extra_sans);
    config.cluster.oidc.clone_from(&settled.cluster.oidc);
    take_sources(config, settled, &["labels", "taints", "cluster.extra_sans", "cluster.oidc"]);
}

/// Takes from `settled` what is fixed when this process takes the node's place in its cluster.
pub fn take_at_start(config: &mut NodeConfig, settled: &NodeConfig) {
    take_live(config, settled);
    config.cluster.extra_arguments.clone_from(&settled.cluster.extra_arguments);
    config.cluster.virtual_address = settled.cluster.virtual_address;
    take_sources(config, settled, &["cluster.extra_arguments", "cluster.virtual_address"]);
}

fn take_sources(config: &mut NodeConfig, settled: &NodeConfig, names: &[&str]) {
    for name in names {
        match settled.sources.get(*name) {
            Some(source) => drop(config.sources.insert((*name).to_owned(), source.clone())),
            None => drop(config.sources.remove(*name)),
        }
    }
}

/// Also when nothing is said: then it is known that nothing is.
pub fn save(files: &dyn Files, paths: &Paths, scopes: &Scopes) -> Result<(), ConfigurationError> {
    files.directory(&paths.cluster_state(), Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
    files.update(&paths.configuration(), &scopes.to_file()?, Mode::PRIVATE, Owner::ROOT)?;
    Ok(())
}

/// What this node has kept; none if it never knew.
pub async fn kept(files: &Arc<dyn Files>, paths: &Paths) -> Result<Option<Scopes>, ConfigurationError> {
    let (files, path) = (Arc::clone(files), paths.configuration());
    let read = tokio::task::spawn_blocking(move || files.read(&path)).await;
    let content = read.map_err(|_| ConfigurationError::Interrupted)??;
    Ok(content.map(|content| Scopes::from_file(&content)).transpose()?)
}

#[cfg(test)]
mod tests {
    use keelson_config::scopes::{FIELDS, overlay};
    use keelson_pki::StandardFiles;
    use serde_json::json;

    use super::*;
    use crate::membership::tests::founding;

    fn settled() -> NodeConfig {
        let spec = json!({
            "timeServers": ["time.example"],
            "node": { "labels": { "rack": "r7" }, "taints": [] },
            "cluster": {
                "extraSANs": ["api.example"],
                "virtualAddress": "192.0.2.10",
                "extraArguments": { "kubelet": { "v": "2" } },
                "oidc": { "issuerURL": "https://id.example", "clientID": "k" },
            },
        });
        overlay(&founding(), &Scopes { node: None, cluster: Some(spec) }).unwrap()
    }

    #[test]
    fn what_takes_effect_at_once_is_what_the_answer_says() {
        let mut config = founding();
        take_live(&mut config, &settled());
        let said = config.sources.values().filter_map(|source| source.field.as_deref());
        let mut said: Vec<_> = said.collect();
        said.sort_unstable();
        let mut live: Vec<_> = FIELDS.into_iter().filter(|field| needs_no_boot(field)).collect();
        live.sort_unstable();
        assert_eq!(said, live);
        assert_eq!((config.labels, config.taints), (settled().labels, settled().taints));
        assert_eq!(config.cluster.extra_sans, ["api.example"]);
        assert!(config.cluster.oidc.is_some() && config.cluster.extra_arguments.is_empty());
    }

    #[test]
    fn what_a_start_takes_besides_and_leaves_to_the_next_boot() {
        let mut config = founding();
        take_at_start(&mut config, &settled());
        assert_eq!(config.cluster, settled().cluster);
        assert!(config.ntp_servers.is_empty());
        take_at_start(&mut config, &founding());
        assert_eq!(config, founding());
    }

    #[tokio::test]
    async fn what_is_kept_is_read_again_and_nothing_is_known_before() {
        let root = tempfile::tempdir().unwrap();
        let (files, paths): (Arc<dyn Files>, _) = (Arc::new(StandardFiles), Paths::below(root.path()));
        assert_eq!(kept(&files, &paths).await.unwrap(), None);
        let scopes = Scopes { node: Some(json!({ "timeServers": [] })), cluster: None };
        save(&*files, &paths, &scopes).unwrap();
        assert_eq!(kept(&files, &paths).await.unwrap(), Some(scopes));
        save(&*files, &paths, &Scopes::default()).unwrap();
        assert_eq!(kept(&files, &paths).await.unwrap(), Some(Scopes::default()));
    }
}
