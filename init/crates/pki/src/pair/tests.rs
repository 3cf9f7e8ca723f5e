use time::{Duration, OffsetDateTime};

use super::*;
use crate::authority::{Authority, AuthorityKind};
use crate::validity::Clock;

fn clock() -> Clock {
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    Clock { now, floor: now }
}

fn authority() -> Authority {
    Authority::create(AuthorityKind::KubernetesServing, "a", clock()).unwrap()
}

fn profile() -> Profile {
    Profile::server(Subject::named("a").uid("u"), Names::loopback())
}

#[test]
fn a_pair_is_read_back_from_its_file() {
    let authority = authority();
    let pair = authority.issue(&profile(), clock()).unwrap();
    let again = Pair::from_file(&pair.to_file()).unwrap();
    assert_eq!(again.certificate(), pair.certificate());
    assert_eq!(again.private_key(), pair.private_key());
    assert!(again.matches(&profile(), authority.certificate()));
}

#[test]
fn a_key_beside_anothers_certificate_is_told() {
    let authority = authority();
    let (one, two) = (authority.issue(&profile(), clock()).unwrap(), authority.issue(&profile(), clock()).unwrap());
    let mixed = format!("{HEADER}{}{}", certificate_pem(one.certificate()), private_key_pem(two.key.serialized_der()));
    assert!(matches!(Pair::from_file(mixed.as_bytes()), Err(PairError::Mismatch)));
}

#[test]
fn a_file_cut_anywhere_is_no_pair() {
    let content = authority().issue(&profile(), clock()).unwrap().to_file();
    // The last line's end is not needed to read it.
    for end in 0..content.len() - 2 {
        assert!(Pair::from_file(&content[..end]).is_err(), "cut at {end} of {}", content.len());
    }
}

#[test]
fn a_later_form_is_refused_by_its_number() {
    let content = String::from_utf8(authority().issue(&profile(), clock()).unwrap().to_file()).unwrap();
    let later = content.replace("keelson pair 1 1", "keelson pair 3 2");
    assert!(matches!(Pair::from_file(later.as_bytes()), Err(PairError::TooNew { oldest: 2 })));
    let readable = content.replace("keelson pair 1 1", "keelson pair 2 1");
    assert!(Pair::from_file(readable.as_bytes()).is_ok());
}

#[test]
fn a_pair_matches_what_it_says_and_nothing_else() {
    let authority = authority();
    let pair = authority.issue(&profile(), clock()).unwrap();
    let mut others = vec![profile(), profile(), profile(), profile()];
    others[0].subject.common_name = "b".to_owned();
    others[1].subject.uid = None;
    others[2].names = Names::loopback().with_dns(["more.test".to_owned()]);
    others[3].usage = crate::profile::Usage::Peer;
    for other in others {
        assert!(!pair.matches(&other, authority.certificate()), "{other:?}");
    }
    let stranger = Authority::create(AuthorityKind::KubernetesServing, "a", clock()).unwrap();
    assert!(!pair.matches(&profile(), stranger.certificate()), "the same name with another key");
}

#[test]
fn a_leafs_life_is_in_its_certificate() {
    let pair = authority().issue(&profile().life(Duration::hours(3)), clock()).unwrap();
    let validity = pair.validity().unwrap();
    assert_eq!(validity.not_before, clock().now);
    assert_eq!(validity.not_after, clock().now + Duration::hours(3));
}

#[test]
fn printing_a_pair_shows_no_key() {
    let pair = authority().issue(&profile(), clock()).unwrap();
    let printed = format!("{pair:?}{:?}", authority());
    let key = STANDARD.encode(pair.key.serialized_der());
    assert!(!printed.contains(&key[..16]));
    assert!(!printed.contains("serialized"));
}
