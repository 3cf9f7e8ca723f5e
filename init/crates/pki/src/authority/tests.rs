use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{ServerName, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::profile::{Names, UID_ATTRIBUTE};
use crate::validity::LEAF_LIFE;

fn clock() -> Clock {
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    Clock { now, floor: now - Duration::days(100) }
}

fn authority(kind: AuthorityKind) -> Authority {
    Authority::create(kind, "cluster-a", clock()).unwrap()
}

fn at(moment: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(moment.unix_timestamp().unsigned_abs()))
}

fn roots(authority: &Authority) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a TLS client says of the certificate under that name at that time.
fn verify_server(authority: &Authority, pair: &Pair, name: &str, moment: OffsetDateTime) -> Result<(), rustls::Error> {
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots(authority), provider()).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(pair.certificate(), &[], &name, &[], at(moment)).map(|_| ())
}

fn verify_client(authority: &Authority, pair: &Pair, moment: OffsetDateTime) -> Result<(), rustls::Error> {
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots(authority), provider()).build().unwrap();
    verifier.verify_client_cert(pair.certificate(), &[], at(moment)).map(|_| ())
}

fn serving() -> Profile {
    Profile::server(
        Subject::named("kube-apiserver"),
        Names::loopback().with_either(["10.0.2.15".into(), "a.test".into()]),
    )
}

#[test]
fn a_server_is_believed_under_its_names_only() {
    let authority = authority(AuthorityKind::KubernetesServing);
    let pair = authority.issue(&serving(), clock()).unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "10.0.2.15", "a.test"] {
        verify_server(&authority, &pair, name, clock().now).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["b.test", "10.0.2.16"] {
        assert!(verify_server(&authority, &pair, name, clock().now).is_err(), "{name}");
    }
}

#[test]
fn a_leaf_holds_from_the_clock_floor_to_the_end_of_its_life() {
    let authority = authority(AuthorityKind::KubernetesServing);
    let pair = authority.issue(&serving(), clock()).unwrap();
    let holds = |moment| verify_server(&authority, &pair, "localhost", moment).is_ok();
    assert!(holds(clock().floor));
    assert!(!holds(clock().floor - Duration::seconds(1)));
    assert!(holds(clock().now + LEAF_LIFE));
    assert!(!holds(clock().now + LEAF_LIFE + Duration::seconds(1)));
}

#[test]
fn a_server_is_no_client_and_a_client_no_server() {
    let server_authority = authority(AuthorityKind::KubernetesServing);
    let server = server_authority.issue(&serving(), clock()).unwrap();
    assert!(verify_client(&server_authority, &server, clock().now).is_err());

    let client_authority = authority(AuthorityKind::KubernetesClient);
    let client = client_authority.issue(&Profile::client(Subject::named("localhost")), clock()).unwrap();
    verify_client(&client_authority, &client, clock().now).unwrap();
    assert!(verify_server(&client_authority, &client, "localhost", clock().now).is_err());
}

#[test]
fn an_authority_says_which_sides_it_certifies() {
    let sides = |kind| {
        let authority = authority(kind);
        let (_, certificate) = X509Certificate::from_der(authority.certificate()).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        (usage.client_auth, usage.server_auth)
    };
    for kind in AuthorityKind::ALL {
        let wanted = match kind {
            AuthorityKind::KubernetesServing => (false, true),
            AuthorityKind::KubernetesClient | AuthorityKind::KubernetesRequests | AuthorityKind::FrontProxy => {
                (true, false)
            }
            AuthorityKind::StoreClient | AuthorityKind::StorePeer | AuthorityKind::Api => (true, true),
        };
        assert_eq!(sides(kind), wanted, "{kind:?}");
    }
}

#[test]
fn no_authority_believes_what_another_certified() {
    for issuer in AuthorityKind::ALL {
        let pair = authority(issuer).issue(&Profile::client(Subject::named("x")), clock()).unwrap();
        for kind in AuthorityKind::ALL.into_iter().filter(|kind| *kind != issuer) {
            assert!(verify_client(&authority(kind), &pair, clock().now).is_err(), "{issuer:?} at {kind:?}");
        }
    }
}

#[test]
fn a_peer_is_both() {
    let authority = authority(AuthorityKind::StorePeer);
    let names = Names::default().with_dns(["node-uid".to_owned()]);
    let pair = authority.issue(&Profile::peer(Subject::named("node-uid"), names), clock()).unwrap();
    verify_server(&authority, &pair, "node-uid", clock().now).unwrap();
    verify_client(&authority, &pair, clock().now).unwrap();
}

#[test]
fn a_leaf_cannot_certify() {
    let authority = authority(AuthorityKind::Api);
    let pair = authority.issue(&Profile::client(Subject::named("x")), clock()).unwrap();
    let (_, leaf) = X509Certificate::from_der(pair.certificate()).unwrap();
    assert!(!leaf.is_ca());
    let (_, own) = X509Certificate::from_der(authority.certificate()).unwrap();
    let constraints = own.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
}

#[test]
fn the_subject_says_name_group_and_uid() {
    let subject = Subject::named("system:node:a").organization("system:nodes").uid("0d1e");
    let pair = authority(AuthorityKind::KubernetesClient).issue(&Profile::client(subject), clock()).unwrap();
    let (_, leaf) = X509Certificate::from_der(pair.certificate()).unwrap();
    let name = leaf.subject();
    assert_eq!(name.iter_common_name().next().unwrap().as_str().unwrap(), "system:node:a");
    assert_eq!(name.iter_organization().next().unwrap().as_str().unwrap(), "system:nodes");
    let uid = name.iter_attributes().find(|attribute| attribute.attr_type().iter().unwrap().eq(UID_ATTRIBUTE)).unwrap();
    assert_eq!(uid.as_str().unwrap(), "0d1e");
}

#[test]
fn serial_numbers_are_positive_and_differ() {
    let authority = authority(AuthorityKind::Api);
    let serials: std::collections::BTreeSet<_> = (0..64)
        .map(|_| {
            let pair = authority.issue(&Profile::client(Subject::named("x")), clock()).unwrap();
            let (_, leaf) = X509Certificate::from_der(pair.certificate()).unwrap();
            let serial = leaf.raw_serial().to_vec();
            assert!(serial.len() <= 20 && serial[0] < 0x80 && serial[0] != 0);
            serial
        })
        .collect();
    assert_eq!(serials.len(), 64);
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let authority = authority(AuthorityKind::Api);
    let key = KeyPair::generate().unwrap();
    let mut wanted = CertificateParams::new(["evil.test".to_owned()]).unwrap();
    wanted.distinguished_name = Subject::named("root").organization("system:masters").distinguished_name();
    let request = wanted.serialize_request(&key).unwrap().pem().unwrap();
    let profile = Profile::client(Subject::named("vm").organization("keelson:operators"));
    let certificate = authority.issue_for_request(&profile, &request, clock()).unwrap();
    let pair = Pair::new(certificate, key);
    assert!(pair.matches(&profile, authority.certificate()));
    let text = String::from_utf8_lossy(pair.certificate()).into_owned();
    assert!(!text.contains("evil.test") && !text.contains("system:masters"));
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let authority = authority(AuthorityKind::Api);
    let request = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let mut der = request.der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let damaged = pair::pem("CERTIFICATE REQUEST", &der);
    let result = authority.issue_for_request(&Profile::client(Subject::named("vm")), &damaged, clock());
    assert!(matches!(result, Err(AuthorityError::Request(_))));
}

#[test]
fn a_weak_key_is_refused() {
    let authority = authority(AuthorityKind::Api);
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let result = authority.issue_for_request(&Profile::client(Subject::named("vm")), &request, clock());
    assert!(matches!(result, Err(AuthorityError::RequestKey)));
}

#[test]
fn a_fingerprint_is_read_as_it_is_shown() {
    let fingerprint = authority(AuthorityKind::Api).fingerprint();
    assert_eq!(Fingerprint::from_hexadecimal(&fingerprint.hexadecimal()), Some(fingerprint));
    for other in ["", "ab", &"A".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
        assert_eq!(Fingerprint::from_hexadecimal(other), None, "{other:?}");
    }
}

#[test]
fn an_authority_taken_up_again_signs_as_before() {
    let before = authority(AuthorityKind::KubernetesClient);
    let file = before.pair().to_file();
    let after = Authority::from_pair(AuthorityKind::KubernetesClient, Pair::from_file(&file).unwrap()).unwrap();
    let pair = after.issue(&Profile::client(Subject::named("x")), clock()).unwrap();
    verify_client(&before, &pair, clock().now).unwrap();
}

/// A verifier of another make.
#[test]
fn openssl_agrees() {
    let version = std::process::Command::new("openssl").arg("version").output().expect("openssl is installed");
    assert!(version.status.success());
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(AuthorityKind::KubernetesServing);
    let pair = authority.issue(&serving(), clock()).unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let trusted = write("ca.crt", authority.certificate_pem().as_bytes());
    let leaf = write("leaf.pem", &pair.to_file());
    let verify = |purpose: &str| {
        let output = std::process::Command::new("openssl")
            .args(["verify", "-x509_strict", "-attime", "1800000000", "-purpose", purpose, "-verify_ip", "10.0.2.15"])
            .arg("-CAfile")
            .args([&trusted, &leaf])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (accepted, message) = verify("sslserver");
    assert!(accepted, "{message}");
    assert!(!verify("sslclient").0);

    // A server's certificate by an authority for clients: the authority's own usage forbids it.
    let clients = self::authority(AuthorityKind::KubernetesClient);
    std::fs::write(&trusted, clients.certificate_pem()).unwrap();
    std::fs::write(&leaf, clients.issue(&serving(), clock()).unwrap().to_file()).unwrap();
    assert!(!verify("sslserver").0);
}
