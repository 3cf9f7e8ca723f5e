//! Whose keys obtain an operator's certificate.
//!
//! The cluster's records say it, so that every control plane proves the same operators, whoever has founded the cluster and is
//! gone. A control plane puts the keys of its own configuration there when it starts, unless a record of the key is there: of
//! one that an operator has removed, the record stays.
//!
//! An operator's first question is why the store does not answer. So each control plane keeps the records on STATE as they were
//! last (`operators.json`, as [`keelson_config::kept`] has it), and asks those while the store is away, and its own configuration as long as it has never heard of a key.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::EventKind;
use keelson_config::OperatorKey;
use keelson_config::kept::{Form, Kept, KeptError};
use keelson_pki::validity::OPERATOR_LIFE;
use keelson_pki::{Files, FilesError, Mode, Owner, StandardFiles};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::node::Node;
use crate::registry::{Change, EventRecord, OperatorRecord, Registry, RegistryError, View};
use crate::report;

/// The operator who waits is to be told something within the deadlines of an answer.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// After a key's removal; clocks differ.
const CERTIFICATES_END: time::Duration = OPERATOR_LIFE.saturating_add(time::Duration::HOUR);
/// After a failure that may pass.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum OperatorsError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("the operators on STATE")]
    Form(#[from] KeptError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the work was interrupted")]
    Interrupted,
}

#[derive(Serialize, Deserialize)]
struct KeptOperators {
    operators: Vec<OperatorRecord>,
}

impl Kept for KeptOperators {
    const FORM: Form = Form { format: "keelson operators", version: 1 };
}

/// What a key is called: the first 64 bits of its SHA-256, in hexadecimal. None if it is no operator's key.
pub fn id_of(public_key: &str) -> Option<String> {
    let der = STANDARD.decode(public_key).ok().filter(|der| OperatorKey::is_key(der))?;
    let digest = digest::digest(&digest::SHA256, &der);
    let (first, _) = digest.as_ref().split_first_chunk::<8>()?;
    Some(format!("{:016x}", u64::from_be_bytes(*first)))
}

/// Those that obtain certificates at this moment.
pub async fn accepted(node: &Node, registry: Option<&Registry>) -> Vec<OperatorKey> {
    let told = match registry {
        Some(registry) => ask(registry).await,
        None => None,
    };
    let records = match told {
        Some(records) => records,
        None => kept(node).await,
    };
    merged(&records, &node.config.operator_keys)
}

/// Whether a key is the operator's no more, as far as this node knows at once: a certificate of yesterday opens nothing then. A worker
/// knows from the cluster's settings, and a control plane that the store has not answered yet from STATE.
pub async fn is_removed(node: &Node, name: &str, key: &str) -> bool {
    let member = node.member_now();
    if let Some(worker) = member.as_ref().and_then(|member| member.worker.as_ref()) {
        return worker.settings_now().removed_operators.iter().any(|removed| removed == key);
    }
    let is_others = |record: &OperatorRecord| record.removed.is_some() || record.name != name;
    match member.and_then(|member| member.registry.as_ref()?.view_now()) {
        Some(view) => view.operators.get(key).is_some_and(is_others),
        None => kept(node).await.iter().any(|record| record.id == key && is_others(record)),
    }
}

/// The ids of the keys that were removed so lately that a certificate which was obtained with one may be good still.
pub fn removed_of_late(view: &View, now: OffsetDateTime) -> impl Iterator<Item = String> {
    let since = (now - CERTIFICATES_END).unix_timestamp();
    let is_late = move |record: &&OperatorRecord| record.removed.as_ref().is_some_and(|removal| removal.at > since);
    view.operators.values().filter(is_late).map(|record| record.id.clone())
}

/// `None` if the store does not answer and never has.
async fn ask(registry: &Registry) -> Option<Vec<OperatorRecord>> {
    match timeout(ASK_DEADLINE, registry.list::<OperatorRecord>()).await {
        Ok(Ok(stored)) => Some(stored.into_iter().map(|stored| stored.value).collect()),
        Ok(Err(_)) | Err(_) => registry.view_now().map(|view| view.operators.values().cloned().collect()),
    }
}

async fn kept(node: &Node) -> Vec<OperatorRecord> {
    let path = node.paths.operators();
    let read = tokio::task::spawn_blocking(move || StandardFiles.read(&path)).await;
    let parsed = match read {
        Ok(Ok(None)) => return Vec::new(),
        Ok(Ok(Some(content))) => KeptOperators::from_file(&content).map_err(OperatorsError::from),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(OperatorsError::Interrupted),
    };
    match parsed {
        Ok(kept) => kept.operators,
        Err(error) => {
            report::error(&error);
            Vec::new()
        }
    }
}

/// The records' keys, and of the configured ones those of which no record says anything.
fn merged(records: &[OperatorRecord], configured: &[OperatorKey]) -> Vec<OperatorKey> {
    let active = records.iter().filter(|record| record.removed.is_none());
    let active = active.map(|record| OperatorKey { name: record.name.clone(), public_key: record.public_key.clone() });
    let is_recorded = |key: &&OperatorKey| records.iter().any(|record| record.public_key == key.public_key);
    active.chain(configured.iter().filter(|key| !is_recorded(key)).cloned()).collect()
}

/// Keeps the records' copy on STATE, and brings the configured keys into the records, for ever.
pub async fn keep(node: Arc<Node>, files: Arc<dyn Files>, registry: Arc<Registry>) {
    let mut views = registry.view();
    let mut complaint = report::Complaint::default();
    loop {
        let view = views.borrow_and_update().clone();
        let settled = match &view {
            Some(view) => settle(&node, &files, &registry, view).await,
            None => Ok(()),
        };
        let failed = settled.is_err();
        match settled {
            Ok(()) => complaint.passed(),
            // The registry's own keeper says when the store does not answer.
            Err(OperatorsError::Registry(RegistryError::Unavailable(_))) => {}
            Err(error) => complaint.of(report::chain(&error)),
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_PAUSE), if failed => {}
        }
    }
}

async fn settle(node: &Node, files: &Arc<dyn Files>, registry: &Registry, view: &View) -> Result<(), OperatorsError> {
    for key in &node.config.operator_keys {
        let id = id_of(&key.public_key).filter(|id| !view.operators.contains_key(id));
        if let Some(id) = id {
            record_configured(registry, node.name(), id, key).await?;
        }
    }
    save(node, files, view).await
}

/// Somebody else's record of the key stays as it is.
async fn record_configured(
    registry: &Registry,
    own: &str,
    id: String,
    key: &OperatorKey,
) -> Result<(), OperatorsError> {
    let record = OperatorRecord {
        version: 1,
        id,
        name: key.name.clone(),
        public_key: key.public_key.clone(),
        added: OffsetDateTime::now_utc().unix_timestamp(),
        added_by: format!("the configuration of {own}"),
        removed: None,
    };
    let message = format!("the key {} of the operator {} was added", record.id, record.name);
    let event = EventRecord::new(own, &record.added_by, EventKind::OperatorAdded, record.added, message);
    let change = Change::default().expect::<OperatorRecord>(&record.id, 0).put(&record)?.put(&event)?;
    registry.commit(change).await?;
    Ok(())
}

async fn save(node: &Node, files: &Arc<dyn Files>, view: &View) -> Result<(), OperatorsError> {
    let content = KeptOperators { operators: view.operators.values().cloned().collect() }.to_file()?;
    let (files, paths) = (Arc::clone(files), node.paths.clone());
    let write = move || {
        files.directory(&paths.cluster_state(), Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
        files.update(&paths.operators(), &content, Mode::PRIVATE, Owner::ROOT)
    };
    tokio::task::spawn_blocking(write).await.map_err(|_| OperatorsError::Interrupted)??;
    Ok(())
}

#[cfg(test)]
mod tests;
