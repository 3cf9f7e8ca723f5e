//! Questions and answers: one JSON object in a datagram.
//!
//! A question is `{"version": 1, "cluster": …, "nonce": …, "padding": …}`: the hexadecimal fingerprint of the cluster's authority for this API, and 16 random bytes
//! in base64. An answer is `{"version": 1, "uid": …, "name": …, "addresses": […], "certificate": …, "signature": …}`: the certificate of the API
//! that the answering control plane serves, DER in base64, and its key's signature (ECDSA with SHA-256, ASN.1, base64) over what
//! [`signed`] makes of answer and question. A later version adds fields, and is 1 as long as who knows no more can do with it.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::CONTROL_PLANES;
use keelson_pki::{Fingerprint, Pair, PairError, PinnedVerifier};
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Found;
use crate::trust::Trust;

const VERSION: u32 = 1;
/// What one packet of a usual link takes (1500 bytes) without the headers of IPv6 and UDP.
const QUESTION_BYTES: usize = 1400;
const NONCE_BYTES: usize = 16;
/// More than a node has.
const ADDRESSES_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the system's random numbers are not available")]
    Random,
    #[error("answering a node that searches its cluster")]
    Sign(#[from] PairError),
    #[error("answering a node that searches its cluster")]
    Encode(#[from] serde_json::Error),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    version: u32,
    cluster: String,
    nonce: String,
    #[serde(default)]
    padding: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answer {
    version: u32,
    uid: String,
    name: String,
    addresses: Vec<IpAddr>,
    certificate: String,
    signature: String,
}

impl Question {
    pub(super) fn new(cluster: Fingerprint) -> Result<Self, MessageError> {
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| MessageError::Random)?;
        let question = Self {
            version: VERSION,
            cluster: cluster.hexadecimal(),
            nonce: STANDARD.encode(nonce),
            padding: String::new(),
        };
        let padding = ".".repeat(QUESTION_BYTES.saturating_sub(question.to_bytes().len()));
        Ok(Self { padding, ..question })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Numbers and text are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// None if it is no question, or for another cluster.
    pub(super) fn read(bytes: &[u8], cluster: &[Fingerprint]) -> Option<Self> {
        let question: Self = serde_json::from_slice(bytes).ok()?;
        let is_named = cluster.iter().any(|fingerprint| question.cluster == fingerprint.hexadecimal());
        let is_meant = question.version == VERSION && is_named;
        (is_meant && bytes.len() >= QUESTION_BYTES).then_some(question)
    }
}

/// Names the use, so that no signature is good for another.
fn signed(question: &Question, found: &Found) -> Vec<u8> {
    let addresses: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    let Question { cluster, nonce, .. } = question;
    let Found { uid, name, .. } = found;
    format!("keelson discovery 1\n{cluster}\n{nonce}\n{uid}\n{name}\n{}\n", addresses.join(",")).into_bytes()
}

impl Answer {
    pub(super) fn sign(own: &Found, question: &Question, pair: &Pair) -> Result<Vec<u8>, MessageError> {
        let answer = Self {
            version: VERSION,
            uid: own.uid.clone(),
            name: own.name.clone(),
            addresses: own.addresses.clone(),
            certificate: STANDARD.encode(pair.certificate()),
            signature: STANDARD.encode(pair.sign(&signed(question, own))?),
        };
        Ok(serde_json::to_vec(&answer)?)
    }

    /// What it says, if a control plane of the cluster has said it in answer to this question.
    pub(super) fn verified(bytes: &[u8], question: &Question, trust: &Trust, now: OffsetDateTime) -> Option<Found> {
        let answer: Self = serde_json::from_slice(bytes).ok()?;
        if answer.version != VERSION || answer.addresses.len() > ADDRESSES_MAX {
            return None;
        }
        let certificate = CertificateDer::from(STANDARD.decode(&answer.certificate).ok()?);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = PinnedVerifier::of_any(trust.fingerprints(), provider).organization(CONTROL_PLANES).any_name();
        let issuer = trust.api.issuer_of(&certificate)?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.unix_timestamp().try_into().ok()?));
        let name = ServerName::try_from("control-plane").ok()?;
        verifier.verify_server_cert(&certificate, std::slice::from_ref(issuer), &name, &[], now).ok()?;
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        let found = Found { uid: answer.uid, name: answer.name, addresses: answer.addresses };
        let signature = STANDARD.decode(&answer.signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, parsed.public_key().raw);
        key.verify(&signed(question, &found), &signature).ok()?;
        // Where a node can be from outside itself.
        let is_usable =
            |address: &IpAddr| !(address.is_loopback() || address.is_unspecified() || address.is_multicast());
        Some(Found { addresses: found.addresses.into_iter().filter(is_usable).collect(), ..found })
    }
}

#[cfg(test)]
mod tests {
    use keelson_config::{ClusterConfig, Role};
    use keelson_pki::AuthorityKind;
    use serde_json::Value;

    use super::*;
    use crate::credentials::Circumstances;
    use crate::membership::Membership;
    use crate::membership::tests::found_in_memory;

    fn own() -> Found {
        Found { uid: "u1".to_owned(), name: "cp1".to_owned(), addresses: vec!["192.0.2.9".parse().unwrap()] }
    }

    fn certificate(membership: &Membership, role: Role) -> Pair {
        let identity = crate::identity::Identity { role, ..membership.identity.clone() };
        let circumstances = Circumstances { identity: &identity, cluster: &ClusterConfig::default(), addresses: &[] };
        let authority = membership.control_plane().unwrap().authorities.get(AuthorityKind::Api);
        authority.issue(&circumstances.api_profile(), clock()).unwrap()
    }

    fn clock() -> keelson_pki::Clock {
        keelson_pki::Clock::system(OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_control_planes_answer_is_believed_for_the_question_that_was_asked() {
        let membership = found_in_memory();
        let trust = &membership.trust;
        let question = Question::new(trust.fingerprint()).unwrap();
        let asked = Question::read(&question.to_bytes(), &[trust.fingerprint()]).unwrap();
        assert_eq!(question.to_bytes().len(), QUESTION_BYTES);
        let pair = certificate(&membership, Role::ControlPlane);
        let answer = Answer::sign(&own(), &asked, &pair).unwrap();
        assert!(answer.len() <= QUESTION_BYTES, "{} bytes", answer.len());
        let now = clock().now;
        assert_eq!(Answer::verified(&answer, &question, trust, now), Some(own()));

        let another = Question::new(trust.fingerprint()).unwrap();
        assert_eq!(Answer::verified(&answer, &another, trust, now), None, "it is good once");
        let later = now + time::Duration::days(400);
        assert_eq!(Answer::verified(&answer, &question, trust, later), None, "the certificate has expired");
        for (field, value) in
            [("uid", "u2".into()), ("name", "cp2".into()), ("addresses", Value::from(vec!["192.0.2.1"]))]
        {
            let mut changed: Value = serde_json::from_slice(&answer).unwrap();
            changed[field] = value;
            assert_eq!(Answer::verified(changed.to_string().as_bytes(), &question, trust, now), None, "{field}");
        }
    }

    #[test]
    fn nobody_else_is_believed_and_nothing_else_is_answered() {
        let (membership, other) = (found_in_memory(), found_in_memory());
        let trust = &membership.trust;
        let question = Question::new(trust.fingerprint()).unwrap();
        let now = clock().now;
        for (pair, who) in [
            (certificate(&membership, Role::Worker), "a worker"),
            (certificate(&other, Role::ControlPlane), "another cluster's"),
        ] {
            let answer = Answer::sign(&own(), &question, &pair).unwrap();
            assert_eq!(Answer::verified(&answer, &question, trust, now), None, "{who}");
        }
        let bytes = question.to_bytes();
        assert_eq!(Question::read(&bytes, &[other.trust.fingerprint()]), None, "another cluster's question");
        let short = Question { padding: String::new(), ..question.clone() };
        assert_eq!(Question::read(&short.to_bytes(), &[trust.fingerprint()]), None, "an answer would be longer");
        assert_eq!(Question::read(&bytes[..bytes.len() - 1], &[trust.fingerprint()]), None);
        for nothing in [&b""[..], b"{}", b"[1]", &[0xff; 1400]] {
            assert_eq!(Question::read(nothing, &[trust.fingerprint()]), None);
            assert_eq!(Answer::verified(nothing, &question, trust, now), None);
        }
    }

    #[test]
    fn addresses_that_lead_to_oneself_or_to_many_are_left_out() {
        let membership = found_in_memory();
        let question = Question::new(membership.trust.fingerprint()).unwrap();
        let addresses = ["127.0.0.1", "::", "ff02::1", "2001:db8::9"].map(|address| address.parse().unwrap()).into();
        let pair = certificate(&membership, Role::ControlPlane);
        let answer = Answer::sign(&Found { addresses, ..own() }, &question, &pair).unwrap();
        let found = Answer::verified(&answer, &question, &membership.trust, clock().now).unwrap();
        assert_eq!(found.addresses, ["2001:db8::9".parse::<IpAddr>().unwrap()]);
    }
}
