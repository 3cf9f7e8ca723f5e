//! What each control plane does for an exchange: it makes or receives the new keys, enters each phase when it is its turn, says
//! so, and goes on to the next one when all have said so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::EventKind;
use keelson_pki::{AuthorityKind, Clock, Files, FilesError};
use tokio::sync::watch;

use super::rewrite::{self, RewriteError};
use super::{ID, PODS_SECONDS, id_of_generation, planes};
use crate::api_server::router::ANSWER_DEADLINE;
use crate::authorities::generations::{Believed, Slot};
use crate::authorities::{AuthoritiesError, Generation};
use crate::identity::ClusterId;
use crate::kubernetes_api::KubernetesApi;
use crate::membership::{ControlPlane, Membership};
use crate::node::Node;
use crate::paths::Paths;
use crate::proxy_feed::changed;
use crate::registry::records::{GenerationRecord, RecipientRecord, ShareRecord};
use crate::registry::{
    Change, EventRecord, NodeGenerations, NodeRecord, Registry, RegistryError, RotationPhase, RotationRecord, Stored,
    View,
};
use crate::secrets::{EncryptionKeys, SecretsError};
use crate::shared_secrets::{Recipient, SharedSecrets, SharedSecretsError, WrappingKey};
use crate::status::ConditionKind;
use crate::{report, supervision};

/// While an exchange goes on.
const INTERVAL: Duration = Duration::from_secs(1);
/// From the last answer until this process begins anew: whoever asked, the operator whose order began the exchange among them, is to have it.
const SENDING: Duration = Duration::from_secs(1);
const API_SERVER: &str = "kube-apiserver";

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Shared(#[from] SharedSecretsError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error("the keys that another control plane has given are not those of the exchange")]
    Foreign,
    #[error("the work was interrupted")]
    Interrupted,
}

/// Until this node has entered a phase: then its process has to start anew ([`Node::begin_anew`]).
pub async fn keep(
    node: Arc<Node>,
    files: Arc<dyn Files>,
    registry: Arc<Registry>,
    membership: Arc<Membership>,
    api: Arc<KubernetesApi>,
    mut ready: watch::Receiver<bool>,
) {
    let Some(held) = membership.control_plane().cloned() else { return };
    let mut views = registry.view();
    let mut complaint = report::Complaint::default();
    let mut keeper = Keeper {
        state: State { paths: node.paths.clone(), files, held },
        node,
        registry,
        membership,
        api,
        wrapping: None,
    };
    loop {
        let is_ready = *ready.borrow_and_update();
        views.mark_unchanged();
        match keeper.step(is_ready).await {
            Ok(false) => complaint.passed(),
            Ok(true) => {
                // A removal, which has begun the exchange, goes on cleaning up. None takes longer than that.
                let _ = tokio::time::timeout(ANSWER_DEADLINE, keeper.node.has_answered()).await;
                tokio::time::sleep(SENDING).await;
                return keeper.node.begin_anew();
            }
            // The registry's own keeper says when the store does not answer.
            Err(KeepError::Registry(RegistryError::Unavailable(_))) => {}
            Err(error) => complaint.of(format!("exchanging the cluster's authorities: {}", report::chain(&error))),
        }
        let is_on = keeper.registry.view_now().is_some_and(|view| view.rotation.is_some());
        tokio::select! {
            () = changed(Some(&mut views)) => {}
            () = changed(Some(&mut ready)) => {}
            () = tokio::time::sleep(INTERVAL), if is_on => {}
        }
    }
}

struct Keeper {
    state: State,
    node: Arc<Node>,
    registry: Arc<Registry>,
    membership: Arc<Membership>,
    api: Arc<KubernetesApi>,
    /// What others are to wrap to for this process.
    wrapping: Option<WrappingKey>,
}

/// What this node has on its disk.
#[derive(Clone)]
struct State {
    paths: Paths,
    files: Arc<dyn Files>,
    held: Arc<ControlPlane>,
}

impl State {
    fn directory(&self, slot: Slot) -> std::path::PathBuf {
        slot.directory(&self.paths.authorities())
    }

    /// Whether the new authorities certify here.
    fn certifies_by(&self, new: &GenerationRecord) -> bool {
        id_of_generation(self.held.authorities.certifying()) == new.id
    }

    /// Where the generation is that does not certify, or will be.
    fn free(&self) -> Slot {
        self.held.authorities.believed().certifies.other()
    }

    /// The new keys, if they are here whole and do not certify yet.
    fn coming(&self, new: &GenerationRecord) -> Result<Option<SharedSecrets>, KeepError> {
        if self.certifies_by(new) {
            return Ok(None);
        }
        let directory = self.directory(self.free());
        let generation = match Generation::read(&*self.files, &directory) {
            Ok(generation) => generation,
            Err(AuthoritiesError::Files(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let keys = EncryptionKeys::read(&*self.files, &directory)?;
        let is_whole = generation.certificates() == new.certificates;
        Ok(keys.filter(|_| is_whole).map(|keys| SharedSecrets::new(&generation, &keys)))
    }

    /// New authorities and a new key. What an earlier attempt left is not taken up: nobody knows who has seen it.
    fn make(&self, cluster: &ClusterId, clock: Clock) -> Result<GenerationRecord, KeepError> {
        let directory = self.directory(self.free());
        self.forget(&directory)?;
        let generation = Generation::create(&*self.files, &directory, cluster, clock)?;
        EncryptionKeys::generate()?.save(&*self.files, &directory)?;
        Ok(GenerationRecord { id: id_of_generation(&generation), certificates: generation.certificates() })
    }

    fn receive(&self, secrets: &SharedSecrets, new: &GenerationRecord) -> Result<(), KeepError> {
        secrets.save_beside(&*self.files, &self.directory(self.free()))?;
        match self.coming(new)? {
            Some(_) => Ok(()),
            None => Err(KeepError::Foreign),
        }
    }

    fn forget(&self, directory: &Path) -> Result<(), KeepError> {
        // The keys that are in use have the same name in another directory.
        Generation::forget(&*self.files, directory)?;
        Ok(EncryptionKeys::forget(&*self.files, directory)?)
    }

    /// What this node has to certify by and to believe; as it is, where there is nothing to go by.
    fn wanted(&self, record: Option<&RotationRecord>, has_coming: bool) -> Believed {
        let present = self.held.authorities.believed();
        let alone = Believed { other: false, ..present };
        let Some((record, new)) = record.and_then(|record| Some((record, record.generation.as_ref()?))) else {
            return alone;
        };
        let place = match (self.certifies_by(new), has_coming) {
            (true, _) => present.certifies,
            (false, true) => self.free(),
            (false, false) => return alone,
        };
        match record.phase {
            RotationPhase::Sharing => Believed { certifies: place.other(), other: true },
            RotationPhase::Certifying => Believed { certifies: place, other: true },
            RotationPhase::Dropping => Believed { certifies: place, other: false },
        }
    }

    /// The encryption keys first: what they add is read whichever authorities certify. Then one file says all the rest.
    fn enter(&self, wanted: Believed, record: Option<&RotationRecord>) -> Result<(), KeepError> {
        let (files, cluster_state) = (&*self.files, self.paths.cluster_state());
        if let Some(keys) = self.encryption(wanted, record)? {
            keys.save(files, &cluster_state)?;
        }
        wanted.save(files, &self.paths.authorities())?;
        if wanted.other { Ok(()) } else { self.forget(&self.directory(wanted.certifies.other())) }
    }

    fn encryption(
        &self,
        wanted: Believed,
        record: Option<&RotationRecord>,
    ) -> Result<Option<EncryptionKeys>, KeepError> {
        let Some(record) = record.filter(|record| record.generation.is_some()) else { return Ok(None) };
        let read = |slot| EncryptionKeys::read(&*self.files, &self.directory(slot))?.ok_or(SecretsError::NoEncryption);
        let present = &self.held.secrets.encryption;
        Ok(Some(match record.phase {
            RotationPhase::Sharing => present.before(&read(wanted.certifies.other())?),
            RotationPhase::Certifying => read(wanted.certifies)?.before(present),
            RotationPhase::Dropping => read(wanted.certifies)?,
        }))
    }
}

/// What is to become of the record.
enum Due {
    Nothing,
    Changed(Box<RotationRecord>),
    /// All is exchanged.
    Finished,
}

impl Keeper {
    fn name(&self) -> &str {
        &self.membership.identity.name
    }

    fn uid(&self) -> &str {
        self.membership.identity.node_uid.as_str()
    }

    /// Whether this node has entered a phase.
    async fn step(&mut self, is_ready: bool) -> Result<bool, KeepError> {
        let Some(view) = self.registry.view_now() else { return Ok(false) };
        let is_member = view.nodes.get(self.name()).is_some_and(|record| record.uid == self.uid());
        if !is_member {
            return Ok(false);
        }
        let stored = match view.rotation {
            Some(_) => self.registry.get::<RotationRecord>(ID).await?,
            None => None,
        };
        let record = stored.as_ref().map(|stored| &stored.value);
        let coming = self.coming(record).await?;
        if self.enter(record, coming.is_some(), &view).await? {
            return Ok(true);
        }
        let Some(stored) = stored else { return Ok(false) };
        let authorities = &self.state.held.authorities;
        let api = AuthorityKind::Api;
        let own = Some(NodeGenerations::of(authorities.get(api).certificate(), &authorities.anchors(api)));
        let is_told = view.nodes.get(self.name()).is_some_and(|record| record.generations == own);
        if !is_told && self.is_as_decided(is_ready).await {
            self.tell(own).await?;
        }
        match self.due(&stored.value, coming, &view).await? {
            Due::Nothing => {}
            Due::Changed(record) => self.commit(&stored, *record).await?,
            Due::Finished => self.finish(&stored).await?,
        }
        Ok(false)
    }

    /// The new keys, if they are on this node's disk and do not certify yet.
    async fn coming(&self, record: Option<&RotationRecord>) -> Result<Option<SharedSecrets>, KeepError> {
        let Some(new) = record.and_then(|record| record.generation.clone()) else { return Ok(None) };
        self.blocking(move |state| state.coming(&new)).await
    }

    /// Enters the phase, when the control planes before this one have: not all API servers are to start anew in the same moment.
    async fn enter(&self, record: Option<&RotationRecord>, has_coming: bool, view: &View) -> Result<bool, KeepError> {
        let before = planes(view).take_while(|plane| plane.name != self.name());
        if record.is_some_and(|record| before.into_iter().any(|plane| !record.is_reached_by(plane))) {
            return Ok(false);
        }
        let (present, wanted) = (self.state.held.authorities.believed(), self.state.wanted(record, has_coming));
        if wanted == present {
            return Ok(false);
        }
        let entered = record.cloned();
        self.blocking(move |state| state.enter(wanted, entered.as_ref())).await?;
        let what = match (wanted.certifies == present.certifies, wanted.other) {
            (true, true) => "the new ones are believed, too",
            (false, _) => "the new ones certify",
            (true, false) => "the former ones are believed no more",
        };
        report::info(format!("the cluster's authorities are exchanged: {what}"));
        Ok(true)
    }

    /// Whether everything that this node runs goes by what it has entered: PID 1 has the services, and the API server is one that was
    /// started with these.
    async fn is_as_decided(&self, is_ready: bool) -> bool {
        is_ready
            && self.node.status.is(ConditionKind::ServicesApplied)
            && supervision::ready_for(&self.node, API_SERVER).await.is_some()
    }

    /// Writes into this node's record how far it is.
    async fn tell(&self, own: Option<NodeGenerations>) -> Result<(), KeepError> {
        let Some(stored) = self.registry.get::<NodeRecord>(self.name()).await? else { return Ok(()) };
        if stored.value.uid == self.uid() {
            let record = NodeRecord { generations: own, ..stored.value };
            let change = Change::default().expect::<NodeRecord>(self.name(), stored.revision).put(&record)?;
            self.registry.commit(change).await?;
        }
        Ok(())
    }

    async fn due(
        &mut self,
        record: &RotationRecord,
        coming: Option<SharedSecrets>,
        view: &View,
    ) -> Result<Due, KeepError> {
        let is_first = planes(view).next().is_some_and(|plane| plane.name == self.name());
        let Some(new) = &record.generation else {
            return if is_first { self.make(record).await } else { Ok(Due::Nothing) };
        };
        if record.phase == RotationPhase::Sharing {
            let due = match coming {
                Some(coming) => self.share(record, &coming, view)?,
                None => self.receive(record, new, view, is_first).await?,
            };
            if !matches!(due, Due::Nothing) {
                return Ok(due);
            }
        }
        if !record.is_reached_by_all(view) {
            return Ok(Due::Nothing);
        }
        let next = match record.phase {
            RotationPhase::Sharing if self.node.clock().now.unix_timestamp() < record.started + PODS_SECONDS => {
                return Ok(Due::Nothing);
            }
            RotationPhase::Sharing => RotationPhase::Certifying,
            RotationPhase::Certifying if record.rewritten => RotationPhase::Dropping,
            RotationPhase::Certifying if is_first => {
                rewrite::all(&self.registry, &self.api, self.state.held.secrets.encryption.writing()).await?;
                return Ok(Due::Changed(Box::new(RotationRecord { rewritten: true, ..record.clone() })));
            }
            RotationPhase::Certifying => return Ok(Due::Nothing),
            RotationPhase::Dropping => return Ok(Due::Finished),
        };
        Ok(Due::Changed(Box::new(RotationRecord { phase: next, ..record.clone() })))
    }

    async fn make(&self, record: &RotationRecord) -> Result<Due, KeepError> {
        let (cluster, clock) = (self.membership.identity.cluster_id.clone(), self.node.clock());
        let made = self.blocking(move |state| state.make(&cluster, clock)).await?;
        report::info("made new authorities for the cluster, and a new key for its Secrets");
        let record = RotationRecord { generation: Some(made), ..record.clone() };
        Ok(Due::Changed(Box::new(record.held_by(self.uid()))))
    }

    /// Brings the new keys to all other control planes.
    fn share(&self, record: &RotationRecord, coming: &SharedSecrets, view: &View) -> Result<Due, KeepError> {
        let mut changed = record.clone().held_by(self.uid());
        for plane in planes(view).filter(|plane| !record.holders.contains(&plane.uid)) {
            let Some(recipient) = record.recipients.get(&plane.uid) else { continue };
            let served =
                record.shares.get(&plane.uid).is_some_and(|share| share.wrapping_key == recipient.wrapping_key);
            if served || !self.is_signed(plane, recipient) {
                continue;
            }
            let to = Recipient { name: &plane.name, uid: &plane.uid, ..self.own() };
            let wrapped = coming.wrap(&recipient.wrapping_key, to)?;
            let share = ShareRecord { wrapping_key: recipient.wrapping_key.clone(), wrapped };
            changed.shares.insert(plane.uid.clone(), share);
        }
        Ok(if changed == *record { Due::Nothing } else { Due::Changed(Box::new(changed)) })
    }

    /// Asks for the new keys, and takes them when they are there. If nobody has them any more, others are made.
    async fn receive(
        &mut self,
        record: &RotationRecord,
        new: &GenerationRecord,
        view: &View,
        is_first: bool,
    ) -> Result<Due, KeepError> {
        let is_lost = !planes(view).any(|plane| record.holders.contains(&plane.uid) && plane.uid != self.uid());
        if is_lost && is_first {
            report::info("nobody has the new authorities any more: others are made");
            let RotationRecord { because, by, started, again, .. } = record;
            let begun = RotationRecord::begun(because.as_deref(), by, *started);
            return Ok(Due::Changed(Box::new(RotationRecord { again: again.clone(), ..begun })));
        }
        let key = match self.wrapping.take() {
            Some(key) => key,
            None => WrappingKey::generate()?,
        };
        let public = key.public();
        let mut changed = record.clone();
        match record.shares.get(self.uid()).filter(|share| share.wrapping_key == public) {
            Some(share) => {
                let secrets = SharedSecrets::unwrap(&share.wrapped, &key, self.own())?;
                let expected = new.clone();
                self.blocking(move |state| state.receive(&secrets, &expected)).await?;
                report::info("got the new authorities of the cluster, and the new key for its Secrets");
                changed = changed.held_by(self.uid());
            }
            None if record.recipients.get(self.uid()).is_some_and(|asked| asked.wrapping_key == public) => {}
            None => {
                let signature = self.state.held.secrets.signing.sign(&self.signed(self.uid(), &public))?;
                let recipient = RecipientRecord { wrapping_key: public, signature: STANDARD.encode(signature) };
                changed.holders.remove(self.uid());
                changed.recipients.insert(self.uid().to_owned(), recipient);
            }
        }
        self.wrapping = Some(key);
        Ok(if changed == *record { Due::Nothing } else { Due::Changed(Box::new(changed)) })
    }

    fn own(&self) -> Recipient<'_> {
        Recipient { cluster_id: self.membership.identity.cluster_id.as_str(), name: self.name(), uid: self.uid() }
    }

    /// Names the use, so that no signature is good for another: no token begins like that.
    fn signed(&self, uid: &str, wrapping_key: &str) -> Vec<u8> {
        let cluster = &self.membership.identity.cluster_id;
        format!("keelson rotation recipient 1\n{cluster}\n{uid}\n{wrapping_key}\n").into_bytes()
    }

    /// Whether the key is the control plane's own word.
    fn is_signed(&self, plane: &NodeRecord, recipient: &RecipientRecord) -> bool {
        let key = plane.signing_key.as_deref().and_then(|key| STANDARD.decode(key).ok());
        let (Some(key), Ok(signature)) = (key, STANDARD.decode(&recipient.signature)) else { return false };
        let message = self.signed(&plane.uid, &recipient.wrapping_key);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(&message, &signature).is_ok()
    }

    /// Somebody who was faster has left something else to do.
    async fn commit(&self, stored: &Stored<RotationRecord>, record: RotationRecord) -> Result<(), KeepError> {
        let change = Change::default().expect::<RotationRecord>(ID, stored.revision).put(&record)?;
        let is_written = self.registry.commit(change).await?;
        if is_written && record.phase != stored.value.phase {
            report::info(format!("the exchange of the cluster's authorities has come to its phase {:?}", record.phase));
        }
        self.registry.refresh().await?;
        Ok(())
    }

    async fn finish(&self, stored: &Stored<RotationRecord>) -> Result<(), KeepError> {
        let RotationRecord { because, by, again, .. } = &stored.value;
        let now = self.node.clock().now.unix_timestamp();
        let than = because.as_ref().map_or_else(|| "before".to_owned(), |name| format!("{name} knew"));
        let message = format!("the cluster's authorities and the key of its Secrets are others than {than}");
        let event = EventRecord::new(self.name(), by, EventKind::AuthorityRotationFinished, now, message);
        let event = match because {
            Some(name) => event.about(name),
            None => event,
        };
        let change = Change::default().expect::<RotationRecord>(ID, stored.revision).put(&event)?;
        let change = match again {
            Some(because) => change.put(&RotationRecord::begun(Some(because), by, now))?,
            None => change.delete::<RotationRecord>(ID),
        };
        self.registry.commit(change).await?;
        self.registry.refresh().await?;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&State) -> Result<T, KeepError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || work(&state)).await.map_err(|_| KeepError::Interrupted)?
    }
}
