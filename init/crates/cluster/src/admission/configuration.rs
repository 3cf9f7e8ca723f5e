//! What operators say of the cluster and of its nodes.

use std::net::IpAddr;

use keelson_api::{EventKind, ScopeConfiguration, ScopeConfigurationChange, ScopeConfigurationRequest};
use keelson_config::scopes::{changed, check, value};
use keelson_config::{Role, Scope};
use serde_json::{Map, Value};

use super::{Admission, AdmissionError, names, timestamp};
use crate::configuration::needs_no_boot;
use crate::registry::{Change, ConfigurationRecord, NodeRecord, Stored};

const VIRTUAL_ADDRESS: &str = "spec.cluster.virtualAddress";
const EXTRA_SANS: &str = "spec.cluster.extraSANs";

impl Admission<'_> {
    /// Of the node, or of the cluster.
    pub async fn configuration(&self, node: Option<&str>) -> Result<ScopeConfiguration, AdmissionError> {
        self.scope(node).await?;
        let stored = self.registry.get::<ConfigurationRecord>(&ConfigurationRecord::id_of(node)).await?;
        Ok(described(node, stored))
    }

    /// Replaces what was said. What is so already is not written, and is no event.
    pub async fn set_configuration(
        &self,
        node: Option<&str>,
        request: &ScopeConfigurationRequest,
        by: &str,
    ) -> Result<ScopeConfigurationChange, AdmissionError> {
        let scope = if node.is_some() { Scope::Node } else { Scope::Cluster };
        let spec = check(request.document.clone(), scope, self.cluster).map_err(AdmissionError::Configuration)?;
        self.check_virtual_address(&spec).await?;
        self.check_extra_sans(&spec).await?;
        let id = ConfigurationRecord::id_of(node);
        for attempt in 0..super::ATTEMPTS {
            let member = self.scope(node).await?;
            let stored = self.registry.get::<ConfigurationRecord>(&id).await?;
            let revision = stored.as_ref().map_or(0, |stored| stored.revision);
            let before = stored.as_ref().map_or_else(nothing, |stored| stored.value.spec.clone());
            let fields = changed(&before, &spec);
            if fields.is_empty() {
                return Ok(answer(described(node, stored), &fields));
            }
            if revision != request.revision {
                return Err(AdmissionError::Outdated);
            }
            let mut change = Change::default().expect::<ConfigurationRecord>(&id, revision);
            if let Some(member) = member {
                // A node that is removed at this moment leaves nothing behind.
                change = change.expect::<NodeRecord>(&member.value.name, member.revision);
            }
            change = if spec == nothing() {
                change.delete::<ConfigurationRecord>(&id)
            } else {
                let (spec, changed_by) = (spec.clone(), by.to_owned());
                change.put(&ConfigurationRecord {
                    version: 1,
                    id: id.clone(),
                    spec,
                    changed: self.now(),
                    changed_by,
                })?
            };
            let whose =
                node.map_or_else(|| "the cluster's settings".to_owned(), |name| format!("the settings of {name}"));
            let message = format!("{whose} were changed: {}", fields.join(", "));
            let event = self.event(EventKind::ConfigurationChanged, by, message);
            let event = match node {
                Some(name) => event.about(name),
                None => event,
            };
            if self.registry.commit(change.put(&event)?).await? {
                let stored = self.registry.get::<ConfigurationRecord>(&id).await?;
                return Ok(answer(described(node, stored), &fields));
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// The member that is spoken of, if it is one.
    async fn scope(&self, node: Option<&str>) -> Result<Option<Stored<NodeRecord>>, AdmissionError> {
        let Some(name) = node else { return Ok(None) };
        match self.registry.get::<NodeRecord>(name).await? {
            Some(member) => Ok(Some(member)),
            None => Err(AdmissionError::NoNode { name: name.to_owned() }),
        }
    }

    /// It is no node's own.
    async fn check_virtual_address(&self, spec: &Value) -> Result<(), AdmissionError> {
        let said = value(spec, VIRTUAL_ADDRESS).and_then(Value::as_str);
        let Some(address) = said.and_then(|said| said.parse::<IpAddr>().ok()) else { return Ok(()) };
        match self.registry.address(&address.to_string()).await? {
            (_, Some(owner)) => Err(AdmissionError::Field {
                field: VIRTUAL_ADDRESS,
                problem: format!("{address} is an address of the node {owner}"),
            }),
            (_, None) => Ok(()),
        }
    }

    /// They are no worker's name or address, which are in that one's certificates already.
    async fn check_extra_sans(&self, spec: &Value) -> Result<(), AdmissionError> {
        let said = value(spec, EXTRA_SANS).and_then(Value::as_array);
        let said: Vec<&str> = said.into_iter().flatten().filter_map(Value::as_str).collect();
        if said.is_empty() {
            return Ok(());
        }
        let view = self.view().await?;
        for worker in view.nodes.values().filter(|node| node.role == Role::Worker) {
            let is_its_own = |san: &&&str| {
                names::covers(san, &worker.name) || worker.addresses.iter().any(|own| is_same_address(san, own))
            };
            if let Some(san) = said.iter().find(is_its_own) {
                let problem = format!("{san} is a name or an address of the worker {}", worker.name);
                return Err(AdmissionError::Field { field: EXTRA_SANS, problem });
            }
        }
        Ok(())
    }
}

fn is_same_address(one: &str, other: &str) -> bool {
    matches!((one.parse::<IpAddr>(), other.parse::<IpAddr>()), (Ok(one), Ok(other)) if one == other)
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

fn described(node: Option<&str>, stored: Option<Stored<ConfigurationRecord>>) -> ScopeConfiguration {
    let node = node.map(str::to_owned);
    match stored {
        None => ScopeConfiguration { node, revision: 0, spec: nothing(), changed: None, changed_by: None },
        Some(Stored { revision, value: ConfigurationRecord { spec, changed, changed_by, .. } }) => {
            ScopeConfiguration { node, revision, spec, changed: Some(timestamp(changed)), changed_by: Some(changed_by) }
        }
    }
}

fn answer(configuration: ScopeConfiguration, fields: &[&str]) -> ScopeConfigurationChange {
    let waiting = fields.iter().filter(|field| !needs_no_boot(field));
    ScopeConfigurationChange {
        configuration,
        changed: fields.iter().map(|field| (*field).to_owned()).collect(),
        waiting: waiting.map(|field| (*field).to_owned()).collect(),
    }
}
