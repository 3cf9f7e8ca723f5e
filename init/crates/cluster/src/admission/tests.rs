use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::join::renewal_message;
use keelson_api::token::{Claims, TTL_MAX_SECONDS};
use keelson_api::{JoinRequest, Joined, RemovalOrder, RenewRequest, Token, TokenRequest, TokenState};
use keelson_pki::{Key, Pair, PairError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::membership::Membership;
use crate::membership::tests::found_in_memory;
use crate::place::record_own;
use crate::registry::memory::Memory;
use crate::registry::{Change, LeaseId, RemovedRecord, TokenRecord, VirtualAddressRecord};
use crate::worker;

mod configuration;
mod control_planes;
mod features;
mod operators;
mod tokens;

/// Whether an error is the one that is due.
type Expected = fn(&AdmissionError) -> bool;

const SAFELY: RemovalOrder = RemovalOrder { force: false, compromised: false, dry_run: false };
const BY_FORCE: RemovalOrder = RemovalOrder { force: true, compromised: false, dry_run: false };

const OWN: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))];

struct Cluster {
    registry: Registry,
    membership: Membership,
    settings: ClusterConfig,
    operators: Vec<OperatorKey>,
    offset: Duration,
}

impl Cluster {
    fn new() -> Self {
        Self {
            registry: Registry::new(Arc::new(Memory::default())),
            membership: found_in_memory(),
            settings: ClusterConfig::default(),
            operators: Vec::new(),
            offset: Duration::ZERO,
        }
    }

    fn admission(&self) -> Admission<'_> {
        let now = OffsetDateTime::now_utc() + self.offset;
        Admission {
            registry: &self.registry,
            held: self.membership.control_plane().unwrap(),
            trust: &self.membership.trust,
            identity: &self.membership.identity,
            cluster: &self.settings,
            virtual_address: self.settings.virtual_address,
            operators: &self.operators,
            addresses: &OWN,
            clock: Clock { now, floor: now - Duration::DAY },
        }
    }

    async fn record_own(&self) {
        let held = self.membership.control_plane().unwrap();
        assert!(record_own(&self.registry, &self.membership.identity, held, &OWN).await.unwrap());
    }

    async fn token(&self, change: impl FnOnce(&mut TokenRequest)) -> String {
        let mut request = TokenRequest {
            role: TokenRole::Worker,
            ttl_seconds: 3600,
            uses: 1,
            name: None,
            hardware: None,
            endpoints: Vec::new(),
        };
        change(&mut request);
        self.admission().create_token(&request, "ann").await.unwrap().token
    }

    async fn join(&self, node: &Machine, token: &str) -> Result<Joined, AdmissionError> {
        self.admission().join(&node.request(token), node.address).await
    }

    /// Everything that is written down, to see that a refusal leaves nothing behind.
    async fn records(&self) -> (usize, usize, usize) {
        let tokens = self.registry.list::<TokenRecord>().await.unwrap();
        let used = tokens.iter().map(|stored| stored.value.redemptions.len()).sum();
        let nodes = self.registry.list::<NodeRecord>().await.unwrap().len();
        (nodes, self.registry.list::<RemovedRecord>().await.unwrap().len(), used)
    }
}

struct Machine {
    name: String,
    address: IpAddr,
    hardware: Option<String>,
    keys: Identities<Key>,
}

const HARDWARE: &str = "4C4C4544-0038-4A10-8059-B7C04F4E3132";

impl Machine {
    fn new(name: &str, last: u8) -> Self {
        Self {
            name: name.to_owned(),
            address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, last)),
            hardware: Some(HARDWARE.to_owned()),
            keys: worker::make_keys(&Key::generate().unwrap()).unwrap(),
        }
    }

    fn request(&self, token: &str) -> JoinRequest {
        JoinRequest {
            token: token.to_owned(),
            name: self.name.clone(),
            role: TokenRole::Worker,
            addresses: vec!["10.9.9.9".to_owned(), self.address.to_string()],
            hardware: self.hardware.clone(),
            requests: worker::requests(&self.keys).unwrap(),
            control_plane: None,
        }
    }

    fn renewal(&self, cluster: &Cluster, joined: &Joined, nonce: &str) -> RenewRequest {
        let requests = worker::requests(&self.keys).unwrap();
        let fingerprint = cluster.membership.trust.fingerprint().hexadecimal();
        let message = renewal_message(&fingerprint, &self.name, &joined.node_uid, nonce, &requests);
        RenewRequest {
            name: self.name.clone(),
            node_uid: joined.node_uid.clone(),
            nonce: nonce.to_owned(),
            addresses: Vec::new(),
            requests,
            signature: STANDARD.encode(self.keys.node.sign(&message).unwrap()),
        }
    }
}

fn alternative_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
            Ok(octets) => IpAddr::from(octets).to_string(),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(*octets).unwrap()).to_string(),
        },
        other => panic!("{other}"),
    }
}

fn names(pem: &str) -> (String, Vec<String>) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let alternative = certificate.subject_alternative_name().unwrap();
    let names =
        alternative.map_or_else(Vec::new, |names| names.value.general_names.iter().map(alternative_name).collect());
    (certificate.subject().to_string(), names)
}

#[tokio::test]
async fn a_worker_gets_certificates_for_its_name_and_the_address_it_came_from_and_no_others() {
    let cluster = Cluster::new();
    let machine = Machine::new("w1", 7);
    let joined = cluster.join(&machine, &cluster.token(|_| {}).await).await.unwrap();
    let (subject, _) = names(&joined.certificates.kubelet_client);
    assert!(subject.contains("O=system:nodes") && subject.contains("CN=system:node:w1"), "{subject}");
    assert!(subject.contains(&joined.node_uid), "{subject}");
    let (_, kubelet) = names(&joined.certificates.kubelet_serving);
    assert_eq!(kubelet, ["w1", "192.0.2.7"], "not the loopback, which is the API server's there");
    let (_, api) = names(&joined.certificates.api_serving);
    assert!(api.contains(&"192.0.2.7".to_owned()), "{api:?}");
    assert!(!api.contains(&"10.9.9.9".to_owned()), "an address that nobody has seen: {api:?}");
    assert_eq!(joined.settings.control_planes[0].addresses, ["192.0.2.1"]);
    let pairs = machine.keys.each_ref().zip(joined.certificates.each_ref());
    let pairs: Result<Identities<Pair>, PairError> = pairs.try_map(|(key, pem)| key.certified(pem));
    assert!(pairs.is_ok(), "each certificate is for the key of its request");
}

/// What is wrong with a token, the token, and the error that it must get.
type Fault = (&'static str, String, Expected);

/// Tokens with each fault, some of which need two seconds to come to it; `used` has been used up.
async fn faulty_tokens(cluster: &Cluster, other: &Cluster, role: TokenRole, good: &str, used: String) -> Vec<Fault> {
    let token = async |cluster: &Cluster, change: fn(&mut TokenRequest)| {
        let change = |request: &mut TokenRequest| {
            request.role = role;
            change(request);
        };
        cluster.token(change).await
    };
    let mut claims = Token::parse(good).unwrap().claims;
    let wrong_secret = Token::new(claims.clone(), |_| vec![1; 32]).unwrap().expose();
    "0123456789abcdef".clone_into(&mut claims.id);
    let unknown = Token::new(claims, |_| vec![1; 32]).unwrap().expose();
    let revoked = token(cluster, |_| {}).await;
    cluster.admission().revoke_token(&Token::parse(&revoked).unwrap().claims.id, "ann").await.unwrap();
    let named = token(cluster, |request| request.name = Some("z".to_owned())).await;
    let bound = token(cluster, |request| request.hardware = Some(uuid::Uuid::nil().to_string())).await;
    let short = token(cluster, |request| request.ttl_seconds = 1).await;
    let foreign = token(other, |_| {}).await;
    let truncated = good[..good.len() - 9].to_owned();
    vec![
        ("nonsense", "abc".to_owned(), |error| matches!(error, AdmissionError::Token(TokenError::Form))),
        ("truncated", truncated, |error| matches!(error, AdmissionError::Token(TokenError::Truncated))),
        ("foreign", foreign, |error| matches!(error, AdmissionError::Foreign { .. })),
        ("a wrong secret", wrong_secret, |error| matches!(error, AdmissionError::Unproven)),
        ("unknown", unknown, |error| matches!(error, AdmissionError::Unproven)),
        ("revoked", revoked, |error| matches!(error, AdmissionError::Revoked)),
        ("used", used, |error| matches!(error, AdmissionError::Used { uses: 1 })),
        ("expired", short, |error| matches!(error, AdmissionError::Expired)),
        ("another name's", named, |error| matches!(error, AdmissionError::BoundName { .. })),
        ("another machine's", bound, |error| matches!(error, AdmissionError::BoundMachine)),
    ]
}

/// Each fault gets its error and leaves nothing behind.
async fn each_is_refused(
    cluster: &Cluster,
    faults: &[Fault],
    join: impl AsyncFn(&str) -> Result<Joined, AdmissionError>,
) {
    let before = cluster.records().await;
    for (what, token, expected) in faults {
        let error = join(token).await.expect_err(what);
        assert!(expected(&error), "{what}: {error:?}");
        assert_eq!(cluster.records().await, before, "{what} left something behind");
    }
}

#[tokio::test]
async fn each_fault_of_a_token_has_its_own_error_leaves_nothing_and_the_right_token_then_works() {
    let mut cluster = Cluster::new();
    let other = Cluster::new();
    let machine = Machine::new("w1", 7);
    let good = cluster.token(|_| {}).await;
    let used = cluster.token(|_| {}).await;
    cluster.join(&Machine::new("w0", 6), &used).await.unwrap();
    let faults = faulty_tokens(&cluster, &other, TokenRole::Worker, &good, used).await;
    cluster.offset = Duration::seconds(2);
    each_is_refused(&cluster, &faults, async |token| cluster.join(&machine, token).await).await;
    cluster.join(&machine, &good).await.unwrap();
}

#[tokio::test]
async fn a_request_made_again_after_a_power_cut_is_the_same_node_and_counts_once() {
    let cluster = Cluster::new();
    let machine = Machine::new("w1", 7);
    let token = cluster.token(|_| {}).await;
    let first = cluster.join(&machine, &token).await.unwrap();
    let second = cluster.join(&machine, &token).await.unwrap();
    assert_eq!(second.node_uid, first.node_uid);
    assert_eq!(cluster.records().await, (1, 0, 1));
    let error = cluster.join(&Machine::new("w2", 8), &token).await.expect_err("used");
    assert!(matches!(error, AdmissionError::Used { .. }), "{error:?}");
}

#[tokio::test]
async fn a_name_in_use_is_refused_and_its_owner_is_unharmed() {
    let mut cluster = Cluster::new();
    cluster.settings.virtual_address = Some(Machine::new("nobody", 100).address);
    cluster.record_own().await;
    let token = cluster.token(|request| request.uses = 5).await;
    let first = Machine::new("w1", 7);
    let joined = cluster.join(&first, &token).await.unwrap();
    let before = cluster.records().await;
    let error = cluster.join(&Machine::new("w1", 8), &token).await.expect_err("the name");
    assert!(matches!(error, AdmissionError::NameInUse { .. }), "{error:?}");
    let error = cluster.join(&Machine::new("a", 9), &token).await.expect_err("the control plane's name");
    assert!(matches!(error, AdmissionError::NameInUse { .. }), "{error:?}");
    let error = cluster.join(&Machine::new("w2", 7), &token).await.expect_err("the address");
    assert!(matches!(&error, AdmissionError::AddressInUse { owner, .. } if owner == "w1"), "{error:?}");
    let error = cluster.join(&Machine::new("w2", 1), &token).await.expect_err("the control plane's address");
    assert!(matches!(error, AdmissionError::AddressInUse { .. }), "{error:?}");
    let error = cluster.join(&Machine::new("w2", 100), &token).await.expect_err("the virtual address");
    assert!(matches!(error, AdmissionError::VirtualAddress(_)), "{error:?}");
    assert_eq!(joined.settings.virtual_address.as_deref(), Some("192.0.2.100"));
    let error = cluster.join(&Machine::new("kubernetes", 9), &token).await.expect_err("the API server's name");
    assert!(matches!(error, AdmissionError::Name { .. }), "{error:?}");
    assert_eq!(cluster.records().await, before);
    cluster.admission().settings_of("w1", &joined.node_uid).await.unwrap();
}

#[tokio::test]
async fn a_worker_is_told_who_has_the_virtual_address() {
    let mut cluster = Cluster::new();
    cluster.settings.virtual_address = Some(Machine::new("nobody", 100).address);
    cluster.record_own().await;
    let joined = cluster.join(&Machine::new("w1", 7), &cluster.token(|_| {}).await).await.unwrap();
    assert_eq!(joined.settings.virtual_address_holder, None);
    let record = VirtualAddressRecord {
        version: 1,
        address: "192.0.2.100".to_owned(),
        name: "a".to_owned(),
        uid: "uid-of-a".to_owned(),
        lease: LeaseId(1),
    };
    assert!(cluster.registry.commit(Change::default().put(&record).unwrap()).await.unwrap());
    cluster.registry.refresh().await.unwrap();
    let told = cluster.admission().settings_of("w1", &joined.node_uid).await.unwrap();
    assert_eq!(told.virtual_address_holder.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_diskless_worker_with_a_bound_token_returns_under_its_own_name() {
    for by_name in [true, false] {
        let cluster = Cluster::new();
        let bind = |request: &mut TokenRequest| {
            if by_name {
                request.name = Some("w1".to_owned());
            } else {
                request.hardware = Some(HARDWARE.to_ascii_lowercase());
            }
        };
        let token = cluster.token(bind).await;
        let first = cluster.join(&Machine::new("w1", 7), &token).await.unwrap();
        // Another key, another address: nothing was remembered.
        let again = cluster.join(&Machine::new("w1", 8), &token).await.unwrap();
        assert_ne!(again.node_uid, first.node_uid);
        assert_eq!(cluster.records().await, (1, 1, 1), "the former identity is out, and the use counted once");
        let error = cluster.admission().settings_of("w1", &first.node_uid).await.expect_err("the former identity");
        assert!(matches!(error, AdmissionError::Removed), "{error:?}");
        cluster.join(&Machine::new("w2", 7), &cluster.token(|_| {}).await).await.expect("its former address is free");
    }
}

/// A cluster whose first family is IPv6.
fn dual_stack() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.settings.pod_cidr = "fd44::/56,10.244.0.0/16".parse().unwrap();
    cluster.settings.service_cidr = "fd96::/112,10.96.0.0/16".parse().unwrap();
    cluster
}

/// A renewal that comes from `peer` and claims these addresses: the record's addresses, and the names in kubelet's certificate.
async fn seen_at(
    cluster: &Cluster,
    machine: &Machine,
    joined: &Joined,
    peer: &str,
    claimed: &[&str],
) -> Result<(Vec<String>, Vec<String>), AdmissionError> {
    let mut request = machine.renewal(cluster, joined, "nonce");
    request.addresses = claimed.iter().map(|address| (*address).to_owned()).collect();
    let renewed = cluster.admission().renew(&request, peer.parse().unwrap()).await?;
    let (_, certified) = names(&renewed.certificates.kubelet_serving);
    Ok((renewed.settings.addresses, certified))
}

#[tokio::test]
async fn a_node_in_dual_stack_has_each_address_that_it_was_seen_at_for_as_long_as_it_says_so() {
    let cluster = dual_stack();
    let machine = Machine::new("w1", 7);
    let joined = cluster.join(&machine, &cluster.token(|_| {}).await).await.unwrap();
    assert_eq!(joined.settings.addresses, ["192.0.2.7"], "what it claims besides, nobody has seen");
    assert_eq!(joined.settings.pod_cidr, "fd44::/56");
    assert_eq!(joined.settings.secondary_pod_cidr.as_deref(), Some("10.244.0.0/16"));
    assert_eq!(joined.settings.secondary_service_cidr.as_deref(), Some("10.96.0.0/16"));

    let seen: [(&str, &[&str], &[&str], &str); 5] = [
        ("fd99::7", &["192.0.2.7", "fd99::7"], &["fd99::7", "192.0.2.7"], "the first family first"),
        ("192.0.2.7", &["192.0.2.7", "fd99::7"], &["fd99::7", "192.0.2.7"], "it was seen at the other one before"),
        (
            "fd99::7",
            &["192.0.2.9", "192.0.2.7", "fd99::7"],
            &["fd99::7", "192.0.2.7"],
            "a claim alone counts for nothing",
        ),
        ("fd99::8", &["192.0.2.7", "fd99::8"], &["fd99::8", "192.0.2.7"], "another one of the same family"),
        ("192.0.2.7", &["192.0.2.7"], &["192.0.2.7"], "it has lost the other one"),
    ];
    for (peer, claimed, expected, why) in seen {
        let (addresses, certified) = seen_at(&cluster, &machine, &joined, peer, claimed).await.unwrap();
        assert_eq!(addresses, expected, "{why}");
        let named: BTreeSet<&str> = certified.iter().map(String::as_str).collect();
        assert_eq!(named, expected.iter().copied().chain(["w1"]).collect(), "{why}");
    }
    for free in ["fd99::7", "fd99::8", "192.0.2.9"] {
        assert_eq!(cluster.registry.address(free).await.unwrap().1, None, "{free}");
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_with_one_family_is_where_it_was_seen_last() {
    let cluster = Cluster::new();
    let machine = Machine::new("w1", 7);
    let joined = cluster.join(&machine, &cluster.token(|_| {}).await).await.unwrap();
    assert_eq!(joined.settings.secondary_pod_cidr, None);
    let (addresses, _) = seen_at(&cluster, &machine, &joined, "fd99::7", &["192.0.2.7", "fd99::7"]).await.unwrap();
    assert_eq!(addresses, ["fd99::7"]);
}

#[tokio::test]
async fn a_node_inside_the_clusters_networks_is_refused_whatever_it_believes_them_to_be() {
    let mut cluster = Cluster::new();
    let token = cluster.token(|request| request.uses = 5).await;
    let machine = Machine::new("w1", 7);
    let joined = cluster.join(&machine, &token).await.unwrap();
    let before = cluster.records().await;
    cluster.settings.service_cidr = "192.0.2.128/25".parse().unwrap();
    let told = cluster.join(&Machine::new("w2", 200), &token).await.expect_err("inside").to_string();
    let expected = "192.0.2.200 is inside the service network 192.0.2.128/25 (spec.cluster.serviceCIDR)";
    assert!(told.contains(expected), "{told}");
    let error = seen_at(&cluster, &machine, &joined, "192.0.2.202", &[]).await.expect_err("it has moved there");
    assert!(matches!(error, AdmissionError::Conflict(_)), "{error:?}");
    assert_eq!(cluster.records().await, before);
    seen_at(&cluster, &machine, &joined, "192.0.2.7", &[]).await.expect("where it was");
}

#[tokio::test]
async fn a_node_behind_an_address_translation_is_told_so() {
    let cluster = Cluster::new();
    let machine = Machine::new("w1", 7);
    let token = cluster.token(|_| {}).await;
    let error = cluster.admission().join(&machine.request(&token), IpAddr::from([198, 51, 100, 1])).await;
    assert!(matches!(error, Err(AdmissionError::Translated { .. })));
}

#[tokio::test]
async fn many_join_in_the_same_moment_with_one_token_and_one_more_is_too_many() {
    let cluster = Cluster::new();
    let token = cluster.token(|request| request.uses = 12).await;
    let machines: Vec<_> = (0..13).map(|number| Machine::new(&format!("w{number}"), 10 + number)).collect();
    let joins = machines.iter().map(|machine| cluster.join(machine, &token));
    let outcomes = futures::future::join_all(joins).await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(matches!(refused[..], [AdmissionError::Used { uses: 12 }]), "{refused:?}");
    assert_eq!(cluster.records().await, (12, 0, 12));
}

fn operator() -> (EcdsaKeyPair, OperatorKey) {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    let random = rand::SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref()).unwrap();
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let key = OperatorKey { name: "ann".to_owned(), public_key: STANDARD.encode(der.as_ref()) };
    (pair, key)
}

fn offline(cluster: &Cluster, pair: &EcdsaKeyPair, signer: &OperatorKey, id: &str, uses: u32) -> String {
    offline_with(cluster, pair, signer, id, |claims| claims.uses = uses)
}

fn offline_with(
    cluster: &Cluster,
    pair: &EcdsaKeyPair,
    signer: &OperatorKey,
    id: &str,
    change: impl FnOnce(&mut Claims),
) -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = Claims {
        id: id.to_owned(),
        cluster: cluster.membership.identity.cluster_id.to_string(),
        fingerprint: cluster.membership.trust.fingerprint().hexadecimal(),
        endpoints: vec!["192.0.2.1:6400".to_owned()],
        role: TokenRole::Worker,
        expires: now + 3600,
        uses: 1,
        name: None,
        hardware: None,
        signer: Some(signer.public_key.clone()),
        issued: Some(now),
    };
    change(&mut claims);
    let random = rand::SystemRandom::new();
    let sign =
        |encoded: &str| pair.sign(&random, &keelson_api::token::signed_message(encoded)).unwrap().as_ref().to_vec();
    Token::new(claims, sign).unwrap().expose()
}

#[tokio::test]
async fn a_token_made_offline_is_an_operators_word_and_its_uses_count_from_the_first() {
    let mut cluster = Cluster::new();
    let (pair, key) = operator();
    let (stranger, stranger_key) = operator();
    cluster.operators = vec![key.clone()];
    let token = offline(&cluster, &pair, &key, "00000000000000aa", 2);
    cluster.join(&Machine::new("w1", 7), &token).await.unwrap();
    cluster.join(&Machine::new("w2", 8), &token).await.unwrap();
    let error = cluster.join(&Machine::new("w3", 9), &token).await.expect_err("used twice");
    assert!(matches!(error, AdmissionError::Used { uses: 2 }), "{error:?}");
    for (what, forged) in [
        ("another's signature", offline(&cluster, &stranger, &key, "00000000000000ab", 2)),
        ("nobody's key", offline(&cluster, &stranger, &stranger_key, "00000000000000ac", 2)),
    ] {
        let error = cluster.join(&Machine::new("w3", 9), &forged).await.expect_err(what);
        assert!(matches!(error, AdmissionError::Unproven), "{what}: {error:?}");
    }
    let unused = offline(&cluster, &pair, &key, "00000000000000ad", 2);
    let entry = cluster.admission().revoke_token("00000000000000ad", "ann").await.unwrap();
    assert_eq!(entry.state, TokenState::Revoked);
    let error = cluster.join(&Machine::new("w3", 9), &unused).await.expect_err("revoked before its first use");
    assert!(matches!(error, AdmissionError::Revoked), "{error:?}");
}

/// What is wrong with a token.
type Mistake = fn(&mut Claims);

#[tokio::test]
async fn a_token_made_offline_is_believed_within_the_bounds_of_any_token() {
    let mut cluster = Cluster::new();
    let (pair, key) = operator();
    cluster.operators = vec![key.clone()];
    let longest = i64::from(TTL_MAX_SECONDS);
    let faults: [(&str, Mistake); 6] = [
        ("it lives too long", |claims| claims.expires = claims.issued.unwrap() + i64::from(TTL_MAX_SECONDS) + 1),
        ("it lives longer than numbers are", |claims| claims.expires = i64::MAX),
        ("it is good for too many", |claims| claims.uses = 10_001),
        ("it is good for two of one name", |claims| (claims.uses, claims.name) = (2, Some("w1".to_owned()))),
        ("nobody knows since when it lives", |claims| claims.issued = None),
        ("it is of the future", |claims| claims.issued = claims.issued.map(|issued| issued + 2 * 60 * 60)),
    ];
    for (what, fault) in faults {
        let token = offline_with(&cluster, &pair, &key, "00000000000000ba", fault);
        let error = cluster.join(&Machine::new("w1", 7), &token).await.expect_err(what);
        assert!(matches!(error, AdmissionError::Field { field: "token", .. }), "{what}: {error:?}");
        assert_eq!(cluster.records().await, (0, 0, 0), "{what}");
    }
    let token = offline_with(&cluster, &pair, &key, "00000000000000bb", |claims| {
        claims.expires = claims.issued.unwrap() + longest;
    });
    cluster.join(&Machine::new("w1", 7), &token).await.expect("the longest life");
}

#[tokio::test]
async fn a_revocation_by_its_id_alone_outlives_every_token_that_was_there() {
    let mut cluster = Cluster::new();
    let (pair, key) = operator();
    cluster.operators = vec![key.clone()];
    let id = "00000000000000bc";
    let token = offline_with(&cluster, &pair, &key, id, |claims| {
        claims.expires = claims.issued.unwrap() + i64::from(TTL_MAX_SECONDS);
    });
    cluster.admission().revoke_token(id, "ann").await.unwrap();
    cluster.offset = Duration::seconds(i64::from(TTL_MAX_SECONDS)) - Duration::MINUTE;
    // Whoever makes one makes room.
    cluster.token(|_| {}).await;
    let error = cluster.join(&Machine::new("w1", 7), &token).await.expect_err("revoked for as long as it lives");
    assert!(matches!(error, AdmissionError::Revoked), "{error:?}");
}

#[tokio::test]
async fn tokens_are_listed_without_secrets() {
    let cluster = Cluster::new();
    let token = cluster.token(|request| request.uses = 2).await;
    cluster.join(&Machine::new("w1", 7), &token).await.unwrap();
    let list = cluster.admission().list_tokens().await.unwrap();
    assert_eq!((list.tokens[0].state, list.tokens[0].used_by.as_slice()), (TokenState::Valid, &["w1".to_owned()][..]));
    let secret = Token::parse(&token).unwrap();
    let stored = serde_json::to_string(&cluster.registry.list::<TokenRecord>().await.unwrap()[0].value).unwrap();
    for form in [STANDARD.encode(secret.proof()), token] {
        assert!(!stored.contains(&form) && !serde_json::to_string(&list).unwrap().contains(&form));
    }
}

#[tokio::test]
async fn a_renewal_needs_the_nodes_own_key_and_a_member() {
    let cluster = Cluster::new();
    let machine = Machine::new("w1", 7);
    let joined = cluster.join(&machine, &cluster.token(|_| {}).await).await.unwrap();
    let genuine = machine.renewal(&cluster, &joined, "n");
    let renew = async |request: &RenewRequest| cluster.admission().renew(request, machine.address).await;
    let renewed = renew(&genuine).await.unwrap();
    assert_ne!(renewed.certificates.kubelet_client, joined.certificates.kubelet_client);

    let thief = Machine::new("w1", 7);
    let mut forged = thief.renewal(&cluster, &joined, "n");
    assert!(matches!(renew(&forged).await, Err(AdmissionError::NoProof)), "another key");
    forged.requests.node.clone_from(&genuine.requests.node);
    assert!(matches!(renew(&forged).await, Err(AdmissionError::NoProof)), "another's signature");
    let mut changed = genuine.clone();
    changed.requests.kubelet_client.clone_from(&worker::requests(&thief.keys).unwrap().kubelet_client);
    assert!(matches!(renew(&changed).await, Err(AdmissionError::NoProof)), "another request under the signature");
    let mut other = genuine.clone();
    other.node_uid = NodeUid::generate().as_str().to_owned();
    assert!(matches!(renew(&other).await, Err(AdmissionError::NoMember)), "nobody's identity");
    cluster.admission().remove("w1", "ann", SAFELY).await.unwrap();
    assert!(matches!(renew(&genuine).await, Err(AdmissionError::Removed)));
}

#[tokio::test]
async fn a_removed_node_is_told_so_and_joins_again_as_another_under_its_name_and_address() {
    let cluster = Cluster::new();
    cluster.record_own().await;
    let machine = Machine::new("w1", 7);
    let token = cluster.token(|request| request.uses = 2).await;
    let first = cluster.join(&machine, &token).await.unwrap();
    let gone = cluster.admission().remove("w1", "ann", SAFELY).await.unwrap();
    assert_eq!(gone, Gone { uid: first.node_uid.clone(), lost: Vec::new(), rotating: false });
    let error = cluster.admission().settings_of("w1", &first.node_uid).await.expect_err("its certificate");
    assert!(matches!(error, AdmissionError::Removed), "{error:?}");
    let before = cluster.records().await;
    cluster.registry.refresh().await.unwrap();
    let error =
        cluster.join(&machine, &token).await.expect_err("it has a use left, and is in the words of the next boot");
    assert!(matches!(error, AdmissionError::SameToken { .. }), "{error:?}");
    assert_eq!(cluster.records().await, before, "it left something behind");
    let second = cluster.join(&machine, &cluster.token(|_| {}).await).await.expect("with a new one");
    assert_ne!(second.node_uid, first.node_uid, "even with the same key it is another node");
    let error = cluster.admission().settings_of("w1", &first.node_uid).await.expect_err("the former identity");
    assert!(matches!(error, AdmissionError::Removed), "{error:?}");
    cluster.admission().remove("w1", "ann", SAFELY).await.unwrap();
    cluster.registry.refresh().await.unwrap();
    let spare = Machine { hardware: Some(uuid::Uuid::nil().to_string()), ..Machine::new("w1", 7) };
    cluster.join(&spare, &token).await.expect("another machine in its place");
    let error = cluster.admission().remove("w9", "ann", SAFELY).await.expect_err("nobody");
    assert!(matches!(error, AdmissionError::NoNode { .. }), "{error:?}");
    for how in [SAFELY, BY_FORCE] {
        let error = cluster.admission().remove("a", "ann", how).await.expect_err("the only control plane");
        assert!(matches!(error, AdmissionError::LastControlPlane { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_node_that_comes_from_another_address_is_certified_for_that_one() {
    let cluster = Cluster::new();
    let mut machine = Machine::new("w1", 7);
    let joined = cluster.join(&machine, &cluster.token(|_| {}).await).await.unwrap();
    machine.address = IpAddr::from([192, 0, 2, 77]);
    let request = machine.renewal(&cluster, &joined, "n");
    let renewed = cluster.admission().renew(&request, machine.address).await.unwrap();
    assert_eq!(renewed.settings.addresses, ["192.0.2.77"]);
    assert_eq!(names(&renewed.certificates.kubelet_serving).1, ["w1", "192.0.2.77"]);
    cluster.join(&Machine::new("w2", 7), &cluster.token(|_| {}).await).await.expect("the old address is free");
}

#[tokio::test]
async fn what_happens_is_told_once_with_who_wanted_it_and_no_secret() {
    use keelson_api::EventKind as Kind;

    let cluster = Cluster::new();
    cluster.record_own().await;
    let mut machine = Machine::new("w1", 7);
    let token = cluster.token(|_| {}).await;
    let joined = cluster.join(&machine, &token).await.unwrap();
    cluster.join(&machine, &token).await.expect("asked again after a power cut");
    machine.address = IpAddr::from([192, 0, 2, 77]);
    cluster.admission().renew(&machine.renewal(&cluster, &joined, "n"), machine.address).await.unwrap();
    cluster.admission().remove("w1", "bea", SAFELY).await.unwrap();
    let id = Token::parse(&token).unwrap().claims.id;
    cluster.admission().revoke_token(&id, "bea").await.unwrap();
    cluster.admission().revoke_token(&id, "cid").await.unwrap();
    let refused = Machine::new("w2", 8);
    cluster.join(&refused, &token).await.expect_err("revoked");

    let list = crate::events::list(&cluster.registry, None).await.unwrap();
    let of_token = format!("the token {id}");
    let mut told: Vec<_> = list.events.iter().map(|event| (event.kind, event.actor.as_str())).collect();
    // Those of one step have no order.
    told[2..4].sort_by_key(|(kind, _)| *kind == Kind::TokenUsed);
    let expected = [
        (Kind::NodeJoined, "a"),
        (Kind::TokenCreated, "ann"),
        (Kind::NodeJoined, of_token.as_str()),
        (Kind::TokenUsed, "w1"),
        (Kind::NodeMoved, "w1"),
        (Kind::NodeRemoved, "bea"),
        (Kind::TokenRevoked, "bea"),
    ];
    assert_eq!(told, expected);
    let text = serde_json::to_string(&list).unwrap();
    let secret = token.split('.').nth(2).unwrap();
    assert!(!text.contains(secret) && text.contains("w1 joined as a worker, from 192.0.2.7"), "{text}");
}
