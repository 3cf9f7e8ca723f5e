//! Control planes come and go.

use std::sync::atomic::Ordering;

use keelson_api::ControlPlaneRequest;
use keelson_api::join::control_plane_message;

use super::*;
use crate::registry::{MemberChange, RegistryError, Removal, RotationPhase, RotationRecord};
use crate::rotation;
use crate::secrets::{Secrets, SigningKey};
use crate::shared_secrets::{Recipient, SharedSecrets, WrappingKey};

/// A machine that asks to be a control plane.
struct Plane {
    machine: Machine,
    wrapping: WrappingKey,
    signing: SigningKey,
}

impl Plane {
    fn new(name: &str, last: u8) -> Self {
        let (files, paths) = (crate::membership::tests::MemoryFiles::default(), crate::paths::Paths::default());
        Self {
            machine: Machine::new(name, last),
            wrapping: WrappingKey::generate().unwrap(),
            signing: SigningKey::create(&files, &paths.cluster_state()).unwrap(),
        }
    }

    fn request(&self, cluster: &Cluster, token: &str) -> JoinRequest {
        let fingerprint = cluster.membership.trust.fingerprint().hexadecimal();
        let (wrapping_key, signing_key) = (self.wrapping.public(), self.signing.public_text().unwrap());
        let message = control_plane_message(&fingerprint, &self.machine.name, &wrapping_key, &signing_key);
        let signature = STANDARD.encode(self.machine.keys.node.sign(&message).unwrap());
        JoinRequest {
            role: TokenRole::ControlPlane,
            control_plane: Some(ControlPlaneRequest { wrapping_key, signing_key, signature }),
            ..self.machine.request(token)
        }
    }

    async fn join(&self, cluster: &Cluster, token: &str) -> Result<Joined, AdmissionError> {
        cluster.admission().join(&self.request(cluster, token), self.machine.address).await
    }
}

impl Cluster {
    async fn plane_token(&self, uses: u32) -> String {
        self.token(|request| {
            request.role = TokenRole::ControlPlane;
            request.uses = uses;
        })
        .await
    }

    /// The founder, as it is once it serves.
    async fn begun() -> Self {
        Self::begun_on(Arc::default()).await
    }

    async fn begun_on(memory: Arc<Memory>) -> Self {
        let mut cluster = Self::new();
        cluster.registry = Registry::new(memory);
        cluster.record_own().await;
        let name = cluster.membership.identity.node_uid.as_str().to_owned();
        let change = MemberChange::Add { name, peer_url: "https://192.0.2.1:2380".to_owned() };
        cluster.registry.change_members(change).await.unwrap();
        cluster
    }

    /// One more, whose store has a place.
    async fn with(self, plane: &Plane) -> (Self, Joined) {
        let joined = plane.join(&self, &self.plane_token(1).await).await.unwrap();
        self.enter(plane, &joined).await.unwrap();
        (self, joined)
    }

    /// Of three control planes `c` does not answer.
    async fn with_a_silent_one(memory: &Arc<Memory>) -> (Self, Joined) {
        let (cluster, _) = Self::begun_on(Arc::clone(memory)).await.with(&Plane::new("b", 2)).await;
        let (cluster, joined) = cluster.with(&Plane::new("c", 3)).await;
        let members = cluster.registry.members().await.unwrap();
        let silent = members.iter().find(|member| member.name == joined.node_uid).unwrap().id;
        memory.silent.lock().unwrap().push(silent);
        (cluster, joined)
    }

    async fn enter(&self, plane: &Plane, joined: &Joined) -> Result<keelson_api::StoreMembers, AdmissionError> {
        self.admission().store_member(&plane.machine.name, &joined.node_uid, plane.machine.address).await
    }

    /// What is left to do, as the control plane with this UID does it.
    fn remover<'a>(&'a self, uid: &'a str) -> Remover<'a> {
        Remover { registry: &self.registry, name: "a", uid, now: OffsetDateTime::now_utc().unix_timestamp() }
    }

    async fn voters(&self) -> Vec<String> {
        let members = self.admission().store_members().await.unwrap().members;
        let mut names: Vec<_> = members.into_iter().filter(|member| member.votes).filter_map(|one| one.node).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_control_plane_gets_the_clusters_secrets_for_its_own_key_and_a_record_with_its_signing_key() {
    let cluster = Cluster::begun().await;
    let plane = Plane::new("b", 7);
    let joined = plane.join(&cluster, &cluster.plane_token(1).await).await.unwrap();
    let uid = joined.node_uid.as_str();
    let recipient = Recipient { cluster_id: &joined.cluster_id, name: "b", uid };
    let wrapped = joined.secrets.as_ref().unwrap();
    assert!(SharedSecrets::unwrap(wrapped, &WrappingKey::generate().unwrap(), recipient).is_err());
    let (files, paths) = (crate::membership::tests::MemoryFiles::default(), crate::paths::Paths::default());
    SharedSecrets::unwrap(wrapped, &plane.wrapping, recipient).unwrap().save(&files, &paths).unwrap();
    let held = cluster.membership.control_plane().unwrap();
    assert_eq!(Secrets::create(&files, &paths.cluster_state()).unwrap().encryption, held.secrets.encryption);
    let record = cluster.registry.get::<NodeRecord>("b").await.unwrap().unwrap().value;
    assert_eq!((record.role, record.signing_key), (Role::ControlPlane, Some(plane.signing.public_text().unwrap())));
    // What is written down and what is sent hold no key in the clear.
    let written = serde_json::to_string(&joined).unwrap();
    assert!(!written.contains("PRIVATE KEY"), "a private key travels");
    cluster.registry.refresh().await.unwrap();
    let told = cluster.admission().settings_of("b", uid).await.unwrap();
    let planes: Vec<_> = told.control_planes.iter().map(|plane| plane.name.as_str()).collect();
    assert_eq!(planes, ["a", "b"]);
}

#[tokio::test]
async fn each_fault_of_a_control_planes_token_has_its_own_error_and_leaves_nothing() {
    let mut cluster = Cluster::begun().await;
    let other = Cluster::new();
    let plane = Plane::new("b", 7);
    let good = cluster.plane_token(1).await;
    let used = cluster.plane_token(1).await;
    Plane::new("c", 6).join(&cluster, &used).await.unwrap();
    let mut faults = faulty_tokens(&cluster, &other, TokenRole::ControlPlane, &good, used).await;
    // A worker's token whose claims say something else: the cluster believes its record.
    let workers = cluster.token(|_| {}).await;
    let parsed = Token::parse(&workers).unwrap();
    let mut claims = Token::parse(&good).unwrap().claims;
    claims.id.clone_from(&parsed.claims.id);
    let raised = Token::new(claims, |_| parsed.proof().to_vec()).unwrap().expose();
    faults
        .push(("a worker's", workers, |error| matches!(error, AdmissionError::Role { token: TokenRole::Worker, .. })));
    faults.push(("a worker's with other claims", raised, |error| matches!(error, AdmissionError::Role { .. })));
    cluster.offset = Duration::seconds(2);
    each_is_refused(&cluster, &faults, async |token| plane.join(&cluster, token).await).await;
    let as_worker = cluster.join(&Machine::new("w1", 8), &good).await.expect_err("a control plane's token");
    assert!(matches!(as_worker, AdmissionError::Role { token: TokenRole::ControlPlane, .. }), "{as_worker:?}");
    plane.join(&cluster, &good).await.unwrap();
}

fn own(request: &JoinRequest) -> ControlPlaneRequest {
    request.control_plane.clone().unwrap()
}

#[tokio::test]
async fn keys_that_the_node_did_not_sign_get_nothing() {
    let cluster = Cluster::begun().await;
    let plane = Plane::new("b", 7);
    let token = cluster.plane_token(1).await;
    let genuine = plane.request(&cluster, &token);
    plane.join(&cluster, &token).await.unwrap();
    // Somebody who has read the token and the request, and wants the secrets for a key of his own.
    let thief = Plane::new("b", 7);
    let asks = async |change: fn(&mut JoinRequest, &JoinRequest)| {
        let mut request = genuine.clone();
        change(&mut request, &thief.request(&cluster, &token));
        cluster.admission().join(&request, plane.machine.address).await.expect_err("another's key")
    };
    let error =
        asks(|request, thief| request.control_plane.as_mut().unwrap().wrapping_key = own(thief).wrapping_key).await;
    assert!(matches!(error, AdmissionError::NoProof), "{error:?}");
    let error =
        asks(|request, thief| request.control_plane.as_mut().unwrap().signing_key = own(thief).signing_key).await;
    assert!(matches!(error, AdmissionError::NoProof), "{error:?}");
    let error = asks(|request, thief| request.control_plane = Some(own(thief))).await;
    assert!(matches!(error, AdmissionError::NoProof), "{error:?}");
    // All of it the thief's: the name is somebody else's then.
    let error = asks(|request, thief| *request = thief.clone()).await;
    assert!(matches!(error, AdmissionError::Used { .. } | AdmissionError::NameInUse { .. }), "{error:?}");
    let error = asks(|request, _| request.control_plane = None).await;
    assert!(matches!(error, AdmissionError::Field { field: "controlPlane", .. }), "{error:?}");
    let error = asks(|request, _| request.role = TokenRole::Worker).await;
    assert!(matches!(error, AdmissionError::Field { field: "controlPlane", .. }), "{error:?}");
}

#[tokio::test]
async fn two_control_planes_and_ten_workers_join_in_the_same_moment() {
    let cluster = Cluster::begun().await;
    let (plane_token, worker_token) = (cluster.plane_token(2).await, cluster.token(|request| request.uses = 10).await);
    let planes = [Plane::new("b", 2), Plane::new("c", 3)];
    let machines: Vec<_> = (0..10).map(|number| Machine::new(&format!("w{number}"), 10 + number)).collect();
    let workers = machines.iter().map(|machine| cluster.join(machine, &worker_token));
    let joining = async |plane: &Plane| {
        let joined = plane.join(&cluster, &plane_token).await?;
        cluster.enter(plane, &joined).await.map(drop)
    };
    let (planes, workers) =
        tokio::join!(futures::future::join_all(planes.iter().map(joining)), futures::future::join_all(workers));
    assert!(planes.iter().all(Result::is_ok), "{planes:?}");
    assert!(workers.iter().all(Result::is_ok), "{workers:?}");
    assert_eq!(cluster.records().await, (13, 0, 12));
    assert_eq!(cluster.voters().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_place_in_the_store_is_given_once_and_follows_the_node_to_another_address() {
    let plane = Plane::new("b", 7);
    let (cluster, joined) = Cluster::begun().await.with(&plane).await;
    let again = cluster.enter(&plane, &joined).await.unwrap();
    assert_eq!(again.members.len(), 2);
    let own = |members: keelson_api::StoreMembers| {
        members.members.into_iter().find(|member| member.name == joined.node_uid).unwrap()
    };
    let member = own(again);
    assert_eq!((member.node.as_deref(), member.votes), (Some("b"), false), "two voters survive no more than one");
    assert_eq!(member.peer_urls, ["https://192.0.2.7:2380"]);
    let elsewhere = IpAddr::from([192, 0, 2, 77]);
    let moved = cluster.admission().store_member("b", &joined.node_uid, elsewhere).await.unwrap();
    assert_eq!(own(moved).peer_urls, ["https://192.0.2.77:2380"]);
    // A worker has none, and neither has one that was removed.
    let worker = cluster.join(&Machine::new("w1", 8), &cluster.token(|_| {}).await).await.unwrap();
    let error = cluster.admission().store_member("w1", &worker.node_uid, IpAddr::from([192, 0, 2, 8])).await;
    assert!(matches!(error, Err(AdmissionError::NoStore { .. })), "{error:?}");
}

#[tokio::test]
async fn a_place_in_the_store_is_given_without_asking_who_leads() {
    let memory = Arc::new(Memory::default());
    let cluster = Cluster::begun_on(Arc::clone(&memory)).await;
    let plane = Plane::new("b", 7);
    let joined = plane.join(&cluster, &cluster.plane_token(1).await).await.unwrap();
    memory.leaderless.store(true, Ordering::Relaxed);
    let told = cluster.enter(&plane, &joined).await.unwrap().members;
    assert_eq!((told.len(), told.iter().any(|member| member.leads)), (2, false));
    cluster.admission().store_members().await.expect_err("an operator is told who leads");
    memory.leaderless.store(false, Ordering::Relaxed);
    let told = cluster.admission().store_members().await.unwrap().members;
    assert_eq!(told.iter().filter(|member| member.leads).count(), 1);
}

#[tokio::test]
async fn a_removed_control_plane_is_told_so_once_the_store_goes_on_without_it() {
    let (b, c) = (Plane::new("b", 2), Plane::new("c", 3));
    let (cluster, _) = Cluster::begun().await.with(&b).await;
    let (cluster, joined) = cluster.with(&c).await;
    assert_eq!(cluster.voters().await, ["a", "b", "c"]);
    let gone = cluster.admission().remove("c", "ann", SAFELY).await.unwrap();
    assert_eq!((gone.uid.as_str(), gone.lost.len()), (joined.node_uid.as_str(), 0));
    let error = cluster.admission().settings_of("c", &joined.node_uid).await.expect_err("still in the store");
    assert!(matches!(error, AdmissionError::BeingRemoved), "{error:?}");
    let error = cluster.enter(&c, &joined).await.expect_err("still in the store");
    assert!(matches!(error, AdmissionError::BeingRemoved), "{error:?}");
    // It does not take itself out; the others do.
    let view = cluster.registry.refresh().await.unwrap();
    cluster.remover(&joined.node_uid).settle(&view).await.unwrap();
    assert_eq!(cluster.registry.members().await.unwrap().len(), 3);
    let own = cluster.membership.identity.node_uid.as_str();
    for _ in 0..2 {
        assert_eq!(cluster.remover(own).settle(&view).await.unwrap().len(), 2);
    }
    let error = cluster.admission().settings_of("c", &joined.node_uid).await.expect_err("removed");
    assert!(matches!(error, AdmissionError::Removed), "{error:?}");
    let again = c.join(&cluster, &cluster.plane_token(1).await).await.expect("it joins again under its name");
    assert_ne!(again.node_uid, joined.node_uid);
}

#[tokio::test]
async fn a_removal_that_would_cost_the_quorum_is_refused_and_if_forced_names_what_is_lost() {
    let (cluster, c_joined) = Cluster::with_a_silent_one(&Arc::default()).await;
    let before = cluster.records().await;
    let error = cluster.admission().remove("b", "ann", SAFELY).await.expect_err("a and c, and c does not answer");
    assert!(matches!(&error, AdmissionError::Quorum { name, .. } if name == "b"), "{error:?}");
    assert_eq!(cluster.records().await, before, "it left something behind");
    let gone = cluster.admission().remove("b", "ann", BY_FORCE).await.unwrap();
    assert_eq!(gone.lost, ["c"]);
    assert_eq!(cluster.voters().await, ["a"]);
    let error = cluster.admission().settings_of("c", &c_joined.node_uid).await.expect_err("lost with it");
    assert!(matches!(error, AdmissionError::Removed), "{error:?}");
}

/// The one that was asked loses its power as soon as the node is put out.
#[tokio::test]
async fn what_goes_with_a_forced_removal_that_broke_off_is_put_out_by_whoever_is_left() {
    let memory = Arc::default();
    let (cluster, c_joined) = Cluster::with_a_silent_one(&memory).await;
    let members = cluster.registry.members().await.unwrap();
    memory.break_off_at_member_changes.store(true, Ordering::Relaxed);
    cluster.admission().remove("b", "ann", BY_FORCE).await.expect_err("it breaks off");
    memory.break_off_at_member_changes.store(false, Ordering::Relaxed);
    let view = cluster.registry.refresh().await.unwrap();
    assert_eq!(view.nodes.keys().collect::<Vec<_>>(), ["a", "c"]);
    let own = cluster.membership.identity.node_uid.as_str().to_owned();
    // The first one is cut off as well, between the store's members and the records.
    let removed = view.removed.values().next().unwrap();
    let b_member = members.iter().find(|member| member.name == removed.uid).unwrap().id;
    let change = MemberChange::Remove { id: b_member, how: Removal::Force };
    cluster.registry.change_members(change).await.unwrap();
    for _ in 0..2 {
        cluster.remover(&own).settle(&view).await.unwrap();
    }
    let view = cluster.registry.refresh().await.unwrap();
    assert_eq!(view.nodes.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(view.removed[&c_joined.node_uid].went_with.as_ref(), Some(&removed.uid));
    assert!(view.removed.values().all(|record| record.among.is_empty()), "{view:?}");
    let error = cluster.admission().settings_of("c", &c_joined.node_uid).await.expect_err("lost with it");
    assert!(matches!(error, AdmissionError::Removed), "{error:?}");
    // Whoever comes later has not gone with it.
    let (cluster, _) = cluster.with(&Plane::new("d", 4)).await;
    let view = cluster.registry.refresh().await.unwrap();
    cluster.remover(&own).settle(&view).await.unwrap();
    assert_eq!(cluster.registry.refresh().await.unwrap().nodes.len(), 2);
}

#[tokio::test]
async fn of_two_control_planes_that_are_removed_in_the_same_moment_one_stays() {
    let b = Plane::new("b", 2);
    let (cluster, _) = Cluster::begun().await.with(&b).await;
    let (one, other) = (cluster.admission(), cluster.admission());
    let (first, second) = tokio::join!(one.remove("a", "ann", BY_FORCE), other.remove("b", "bea", BY_FORCE));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let error = first.err().or(second.err()).unwrap();
    assert!(matches!(error, AdmissionError::LastControlPlane { .. }), "{error:?}");
    assert_eq!(cluster.registry.refresh().await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn a_trial_says_what_a_removal_would_be_refused_for_and_changes_nothing() {
    const TRIAL: RemovalOrder = RemovalOrder { dry_run: true, ..SAFELY };
    let cluster = Cluster::begun().await;
    let error = cluster.admission().remove("a", "ann", TRIAL).await.expect_err("the only one");
    assert!(matches!(error, AdmissionError::LastControlPlane { .. }), "{error:?}");
    let (cluster, joined) = cluster.with(&Plane::new("b", 2)).await;
    let before = (cluster.records().await, cluster.registry.members().await.unwrap());
    let gone = cluster.admission().remove("b", "ann", TRIAL).await.unwrap();
    assert_eq!(gone, Gone { uid: joined.node_uid, ..Gone::default() });
    let compromised = RemovalOrder { compromised: true, ..TRIAL };
    cluster.admission().remove("b", "ann", compromised).await.unwrap();
    assert_eq!((cluster.records().await, cluster.registry.members().await.unwrap()), before);
}

#[tokio::test]
async fn the_one_that_does_not_answer_goes_without_force_and_the_only_voter_hands_its_vote_on() {
    let b = Plane::new("b", 2);
    let (cluster, _) = Cluster::begun().await.with(&b).await;
    assert_eq!(cluster.voters().await, ["a"]);
    // Asked of `a` itself; `b` is the one that does the work.
    cluster.admission().remove("a", "ann", SAFELY).await.unwrap();
    let view = cluster.registry.refresh().await.unwrap();
    let left = cluster.remover(&view.nodes["b"].uid).settle(&view).await.unwrap();
    assert_eq!(left.iter().filter(|member| member.votes).count(), 1);
    assert_eq!(left.len(), 1);
    let unknown = cluster.registry.change_members(MemberChange::Remove { id: 99, how: Removal::Safe }).await;
    assert!(matches!(unknown, Err(RegistryError::Members(_))));
}

#[tokio::test]
async fn an_operator_has_the_authorities_exchanged_once_however_often_it_is_asked() {
    let cluster = Cluster::begun().await;
    let unused = cluster.token(|_| ()).await;
    let admission = cluster.admission();
    let mut started = Vec::new();
    for _ in 0..2 {
        admission.exchange_authorities("ann").await.unwrap();
        let record = cluster.registry.get::<RotationRecord>(rotation::ID).await.unwrap().unwrap().value;
        assert_eq!((record.because, record.again, record.by.as_str()), (None, None, "ann"));
        let events = crate::events::list(&cluster.registry, None).await.unwrap().events;
        started = events.into_iter().filter(|event| event.kind == EventKind::AuthorityRotationStarted).collect();
    }
    assert_eq!(started.len(), 1, "{started:?}");
    assert_eq!(started[0].node, None);
    let worker = Machine::new("w1", 9);
    let error = cluster.join(&worker, &unused).await.expect_err("it knows the former authority");
    assert!(matches!(error, AdmissionError::Revoked), "{error:?}");
    // A token that is made meanwhile stays good, whoever asks again.
    let token = cluster.token(|_| ()).await;
    admission.exchange_authorities("ann").await.unwrap();
    cluster.join(&worker, &token).await.unwrap();
}

#[tokio::test]
async fn what_a_compromised_control_plane_knew_is_to_be_exchanged_and_no_token_is_good_any_more() {
    const COMPROMISED: RemovalOrder = RemovalOrder { compromised: true, ..SAFELY };
    let (b, c) = (Plane::new("b", 2), Plane::new("c", 3));
    let (cluster, _) = Cluster::begun().await.with(&b).await;
    let (cluster, _) = cluster.with(&c).await;
    let unused = cluster.token(|_| ()).await;
    let rotation =
        async || cluster.registry.get::<RotationRecord>(rotation::ID).await.unwrap().map(|stored| stored.value);
    assert_eq!(rotation().await, None);
    let gone = cluster.admission().remove("c", "ann", COMPROMISED).await.unwrap();
    assert!(gone.rotating);
    let begun = rotation().await.unwrap();
    assert_eq!((begun.because.as_deref(), begun.phase, begun.generation), (Some("c"), RotationPhase::Sharing, None));
    let removed = cluster.registry.get::<RemovedRecord>(&gone.uid).await.unwrap().unwrap().value;
    assert!(removed.compromised);
    let worker = Machine::new("w1", 9);
    let error = cluster.join(&worker, &unused).await.expect_err("somebody may have read it");
    assert!(matches!(error, AdmissionError::Revoked), "{error:?}");
    cluster.join(&worker, &cluster.token(|_| ()).await).await.expect("a worker gets nothing of what is exchanged");
    let token = cluster.plane_token(1).await;
    let error = Plane::new("d", 8).join(&cluster, &token).await.expect_err("it would get what is exchanged");
    assert!(matches!(error, AdmissionError::Rotating), "{error:?}");

    let gone = cluster.admission().remove("b", "ann", COMPROMISED).await.unwrap();
    assert!(gone.rotating);
    let again = rotation().await.unwrap();
    assert_eq!((again.because.as_deref(), again.again.as_deref()), (Some("c"), Some("b")));
    assert!(!cluster.admission().remove("w1", "ann", COMPROMISED).await.unwrap().rotating, "it knew no key of others");
}
