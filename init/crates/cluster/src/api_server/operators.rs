//! Operators' credentials: the proof of a key that the cluster knows ([`crate::operators`]), and certificates for a day.
//!
//! Names and rights come from the cluster's records and from this code, never from a request: of a certificate request
//! only the public key is used. What is refused says which field is wrong; a proof that does not hold is refused in the
//! same words whether the key is unknown or the signature is wrong.

use std::time::Instant;

use aws_lc_rs::constant_time;
use base64::{Engine, prelude::BASE64_STANDARD};
use keelson_api::{
    Certificate, CertificateRequest, Challenge, ErrorCode, KubeconfigMaterial, KubeconfigRequest, OPERATORS,
    PublicAuthority, proof,
};
use keelson_config::OperatorKey;
use keelson_pki::{
    Authority, AuthorityError, AuthorityKind, Clock, Profile, Subject, pair::certificate_pem, validity::OPERATOR_LIFE,
};
use time::format_description::well_known::Rfc3339;

use super::{
    caller::Caller,
    challenge::{ChallengeError, LIFE},
    members::not_a_control_plane,
    respond::Refusal,
    router::Context,
    views::api_server_url,
};
use crate::node::Member;
use crate::operators;
use crate::trust::Trust;

pub fn authority(member: &Member) -> PublicAuthority {
    PublicAuthority { certificate: certificate_pem(member.trust().api.certifier()) }
}

/// Only whoever can certify asks for proofs.
pub fn challenge(context: &Context, caller: &Caller) -> Result<Challenge, Refusal> {
    if let Some(member) = context.node.member_now()
        && member.authority(AuthorityKind::Api).is_none()
    {
        return Err(not_a_control_plane(&member));
    }
    limit(context, caller)?;
    let nonce = context.challenges.issue(Instant::now()).map_err(|error| challenge_refusal(&error))?;
    Ok(Challenge { nonce, expires_in_seconds: u32::try_from(LIFE.as_secs()).unwrap_or(u32::MAX) })
}

/// A certificate for the API, against a proof of an operator's key.
pub async fn certificate(
    context: &Context,
    member: &Member,
    caller: &Caller,
    request: &CertificateRequest,
) -> Result<Certificate, Refusal> {
    limit(context, caller)?;
    let now = Instant::now();
    let nonce = context.challenges.check(&request.nonce, now).map_err(|error| challenge_refusal(&error))?;
    let authority = member.authority(AuthorityKind::Api).ok_or_else(|| not_a_control_plane(member))?;
    let keys = operators::accepted(&context.node, member.registry.as_deref()).await;
    let key = proven(&keys, member.trust(), request)?;
    let operator = key.name.as_str();
    let id = operators::id_of(&key.public_key);
    let issued = issue(authority, (operator, id.as_deref()), &request.csr, context.node.clock())?;
    context.challenges.consume(&nonce, now).map_err(|error| challenge_refusal(&error))?;
    forgive(context, caller);
    Ok(Certificate { certificate: issued.pem, operator: operator.to_owned(), expires: issued.expires })
}

/// A certificate for Kubernetes' API, for an operator who has shown who they are, by which key.
pub fn kubeconfig(
    context: &Context,
    member: &Member,
    operator: (&str, Option<&str>),
    request: &KubeconfigRequest,
) -> Result<KubeconfigMaterial, Refusal> {
    let clients = member.authority(AuthorityKind::KubernetesClient).ok_or_else(|| not_a_control_plane(member))?;
    let issued = issue(clients, operator, &request.csr, context.node.clock())?;
    // The one that stays when this node does not.
    let address = context.node.cluster().virtual_address.or_else(|| context.node.addresses().first().copied());
    let server = address.map(api_server_url).ok_or_else(|| {
        Refusal::new(ErrorCode::Unavailable, "the node has no address yet at which Kubernetes' API could be reached")
    })?;
    Ok(KubeconfigMaterial {
        certificate: issued.pem,
        certificate_authority: member.trust().kubernetes_serving.pem(),
        server,
        cluster: format!("keelson-{}", member.identity.cluster_id.as_str().get(..8).unwrap_or_default()),
        expires: issued.expires,
    })
}

/// The key that is spoken of, if the signature is made with it.
fn proven<'a>(
    keys: &'a [OperatorKey],
    trust: &Trust,
    request: &CertificateRequest,
) -> Result<&'a OperatorKey, Refusal> {
    let signature = BASE64_STANDARD
        .decode(&request.signature)
        .map_err(|_| Refusal::invalid("signature", "the signature is not base64"))?;
    let spoken = request.operator_key.as_bytes();
    let same = |key: &&OperatorKey| constant_time::verify_slices_are_equal(key.public_key.as_bytes(), spoken).is_ok();
    let key = keys.iter().find(same).ok_or_else(no_proof)?;
    let der = BASE64_STANDARD.decode(&key.public_key).map_err(|_| no_proof())?;
    let message = |fingerprint: &str| proof::message(fingerprint, &request.nonce, &request.csr);
    if trust.is_proven(der, &signature, message) { Ok(key) } else { Err(no_proof()) }
}

fn no_proof() -> Refusal {
    Refusal::new(
        ErrorCode::Unauthenticated,
        "the proof does not hold: the key is none of the cluster's operators' (keelctl operator list), or it did not make \
         the signature",
    )
}

struct Issued {
    pem: String,
    expires: String,
}

/// The key's id is in it as the UID, which kube-apiserver denies as it does a removed node's.
fn issue(
    authority: &Authority,
    (operator, key): (&str, Option<&str>),
    csr: &str,
    clock: Clock,
) -> Result<Issued, Refusal> {
    let subject = Subject::named(operator).organization(OPERATORS);
    let subject = Subject { uid: key.map(str::to_owned), ..subject };
    let profile = Profile::client(subject).life(OPERATOR_LIFE);
    let certificate = authority.issue_for_request(&profile, csr, clock).map_err(|error| match error {
        AuthorityError::Request(_) | AuthorityError::RequestKey => {
            Refusal::invalid("csr", super::respond::with_causes(&error))
        }
        error => Refusal::because(ErrorCode::Internal, &error),
    })?;
    let expires = clock.validity(OPERATOR_LIFE).not_after;
    Ok(Issued { pem: certificate_pem(&certificate), expires: expires.format(&Rfc3339).unwrap_or_default() })
}

pub(super) fn limit(context: &Context, caller: &Caller) -> Result<(), Refusal> {
    let Some((who, address)) = caller.trying().zip(caller.address()) else { return Ok(()) };
    context.limiter.attempt(&who, Instant::now()).map_err(|wait| {
        let seconds = wait.as_secs() + 1;
        let mut refusal =
            Refusal::new(ErrorCode::TooManyRequests, format!("too many attempts from {address}; wait {seconds} s"));
        refusal.retry_after_seconds = Some(seconds);
        refusal
    })
}

/// Once an attempt has succeeded.
pub(super) fn forgive(context: &Context, caller: &Caller) {
    if let Some(who) = caller.trying() {
        context.limiter.forgive(&who);
    }
}

pub(super) fn challenge_refusal(error: &ChallengeError) -> Refusal {
    match error {
        ChallengeError::NoRandomness => Refusal::because(ErrorCode::Internal, error),
        ChallengeError::TooMany => Refusal::because(ErrorCode::TooManyRequests, error),
        ChallengeError::Unknown | ChallengeError::Expired | ChallengeError::Used => {
            Refusal::because(ErrorCode::Unauthenticated, error).about("nonce")
        }
    }
}
