//! Join tokens: made, shown, revoked, and judged when they are used.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::token::{Claims, SECRET_BYTES, TTL_MAX_SECONDS, bounds_problem};
use keelson_api::validation::{self, ENDPOINTS_MAX, token_problem};
use keelson_api::{CreatedToken, EventKind, Token, TokenEntry, TokenList, TokenRequest, TokenRole, TokenState};
use keelson_pki::Fingerprint;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Admission, AdmissionError, names, role_of, token_role};
use crate::registry::{Change, Registry, Stored, TokenRecord};

pub(super) use keelson_api::validation::is_token_id as is_id;

/// A fleet has one token for many machines; more than this that let somebody in are forgotten ones.
pub(super) const TOKENS_MAX: usize = 1000;
/// Those that let nobody in are kept this long after they have expired, so that who comes late is told what is wrong.
const KEPT_SECONDS: i64 = 7 * 24 * 60 * 60;
/// Of more than this that let nobody in, the oldest are not kept.
pub(super) const SPENT_MAX: usize = 1000;
/// A node that lost power while it joined asks again with its token, and by then it has.
const JOIN_AGAIN_SECONDS: i64 = 24 * 60 * 60;
/// How far an operator's clock may be ahead of ours; less than a revocation is kept for beyond the longest life.
const CLOCK_SLACK_SECONDS: i64 = 60 * 60;

impl Admission<'_> {
    pub async fn create_token(&self, request: &TokenRequest, by: &str) -> Result<CreatedToken, AdmissionError> {
        self.check(request)?;
        make_room(self.registry, self.now()).await?;
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret).map_err(|_| AdmissionError::NoRandomness)?;
        let expires = self.now() + i64::from(request.ttl_seconds);
        let endpoints = if request.endpoints.is_empty() { self.endpoints().await? } else { request.endpoints.clone() };
        let claims = Claims {
            id: random_id()?,
            cluster: self.identity.cluster_id.to_string(),
            fingerprint: self.trust.fingerprint().hexadecimal(),
            endpoints,
            role: request.role,
            expires,
            uses: request.uses,
            name: request.name.clone(),
            hardware: request.hardware.as_deref().map(hardware),
            signer: None,
            issued: None,
        };
        let mut record = record_of(&claims, by, self.now());
        record.secret_hash = Some(hash(&secret));
        let token = Token::new(claims, |_| secret.to_vec()).map_err(AdmissionError::Encode)?;
        let message = format!(
            "the token {} was created, for the role {}, {} uses and until {}",
            record.id,
            request.role,
            request.uses,
            timestamp(expires)
        );
        let event = self.event(EventKind::TokenCreated, by, message);
        let change = Change::default().expect::<TokenRecord>(&record.id, 0).put(&record)?.put(&event)?;
        // An id of 64 random bits that exists already does not come again.
        if !self.registry.commit(change).await? {
            return Err(AdmissionError::Contended);
        }
        Ok(CreatedToken { token: token.expose(), expires: timestamp(expires), id: record.id })
    }

    fn check(&self, request: &TokenRequest) -> Result<(), AdmissionError> {
        if let Some((field, problem)) = token_problem(request) {
            return Err(AdmissionError::Field { field, problem });
        }
        let problem = request.name.as_ref().and_then(|name| Some((name, names::problem(name, self.cluster)?)));
        problem.map_or(Ok(()), |(name, problem)| {
            let problem = format!("{name:?} cannot be a node's name: {problem}");
            Err(AdmissionError::Field { field: "name", problem })
        })
    }

    async fn endpoints(&self) -> Result<Vec<String>, AdmissionError> {
        let planes = self.control_planes().await?;
        let addresses = planes.iter().flat_map(|plane| &plane.addresses);
        let addresses = addresses.filter_map(|address| address.parse().ok());
        let endpoints: Vec<_> = addresses
            .map(|address| std::net::SocketAddr::new(address, keelson_api::PORT).to_string())
            .take(ENDPOINTS_MAX)
            .collect();
        if endpoints.is_empty() {
            let problem = "no control plane has an address yet; say where nodes are to ask".to_owned();
            return Err(AdmissionError::Field { field: "endpoints", problem });
        }
        Ok(endpoints)
    }

    pub async fn list_tokens(&self) -> Result<TokenList, AdmissionError> {
        let now = self.now();
        let stored = self.registry.list::<TokenRecord>().await?;
        let mut tokens: Vec<_> = stored.into_iter().map(|stored| stored.value).collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created));
        Ok(TokenList { tokens: tokens.iter().map(|record| entry(record, now)).collect() })
    }

    /// Revokes a token; one that is not known may have been made offline, and is revoked before its first use. There is always room
    /// for that.
    pub async fn revoke_token(&self, id: &str, by: &str) -> Result<TokenEntry, AdmissionError> {
        if !is_id(id) {
            return Err(AdmissionError::NoToken);
        }
        for attempt in 0..super::ATTEMPTS {
            let stored = self.registry.get::<TokenRecord>(id).await?;
            let (revision, mut record) = match stored {
                Some(Stored { revision, value }) => (revision, value),
                None => (0, self.unknown(id, by)),
            };
            if record.revoked && revision != 0 {
                return Ok(entry(&record, self.now()));
            }
            record.revoked = true;
            let event = self.event(EventKind::TokenRevoked, by, format!("the token {id} was revoked"));
            let change = Change::default().expect::<TokenRecord>(id, revision).put(&record)?.put(&event)?;
            if self.registry.commit(change).await? {
                return Ok(entry(&record, self.now()));
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// Revokes all that are still good: somebody may have read them on their way.
    pub(super) async fn revoke_all(&self, by: &str) -> Result<(), AdmissionError> {
        let now = self.now();
        for stored in self.registry.list::<TokenRecord>().await? {
            if lets_in(&stored.value, now) {
                self.revoke_token(&stored.value.id, by).await?;
            }
        }
        Ok(())
    }

    /// Stands for a token of which nothing but the id is known, for as long as one that was made until now may live.
    fn unknown(&self, id: &str, by: &str) -> TokenRecord {
        TokenRecord {
            version: 1,
            id: id.to_owned(),
            secret_hash: None,
            role: role_of(TokenRole::Worker),
            expires: self.now() + i64::from(TTL_MAX_SECONDS),
            uses: 0,
            redemptions: Vec::new(),
            name: None,
            hardware: None,
            revoked: true,
            created: self.now(),
            created_by: by.to_owned(),
        }
    }

    /// The record of a token whose proof holds, at its revision; 0 for one made offline and not used yet.
    pub(super) async fn proven(&self, token: &Token) -> Result<Stored<TokenRecord>, AdmissionError> {
        let claims = &token.claims;
        let own = self.trust.fingerprint();
        let is_own = |known: Fingerprint| claims.fingerprint == known.hexadecimal();
        if !self.trust.fingerprints().into_iter().any(is_own) || claims.cluster != self.identity.cluster_id.as_str() {
            return Err(AdmissionError::Foreign { found: claims.fingerprint.clone(), own: own.to_string() });
        }
        if !is_id(&claims.id) {
            return Err(AdmissionError::Unproven);
        }
        let stored = self.registry.get::<TokenRecord>(&claims.id).await?;
        if let Some(Stored { value: TokenRecord { secret_hash: Some(expected), .. }, .. }) = &stored {
            let found = hash(token.proof());
            constant_time::verify_slices_are_equal(expected.as_bytes(), found.as_bytes())
                .map_err(|_| AdmissionError::Unproven)?;
        } else {
            self.check_signature(token)?;
            self.check_bounds(claims)?;
        }
        Ok(stored.unwrap_or_else(|| Stored { revision: 0, value: record_of(claims, "offline", self.now()) }))
    }

    /// A token that was made offline is an operator's word.
    fn check_signature(&self, token: &Token) -> Result<(), AdmissionError> {
        let signer = token.claims.signer.as_deref().ok_or(AdmissionError::Unproven)?;
        let same = |key: &&keelson_config::OperatorKey| {
            constant_time::verify_slices_are_equal(key.public_key.as_bytes(), signer.as_bytes()).is_ok()
        };
        let key = self.operators.iter().find(same).ok_or(AdmissionError::Unproven)?;
        let key = STANDARD.decode(&key.public_key).map_err(|_| AdmissionError::Unproven)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(&token.signed_message(), token.proof())
            .map_err(|_| AdmissionError::Unproven)
    }

    /// One that was made offline is bound as those are that a cluster makes.
    fn check_bounds(&self, claims: &Claims) -> Result<(), AdmissionError> {
        let refused = |problem: String| AdmissionError::Field { field: "token", problem };
        let issued = claims.issued.ok_or_else(|| refused("it does not say when it was made".to_owned()))?;
        if issued > self.now() + CLOCK_SLACK_SECONDS {
            return Err(refused(format!("it was made at {}, which is not yet", timestamp(issued))));
        }
        let life = claims.expires.saturating_sub(issued);
        match bounds_problem(life, claims.uses, claims.name.is_some()) {
            Some((_, problem)) => Err(refused(problem)),
            None => Ok(()),
        }
    }
}

/// Forgets what expired long ago and, of all else that lets nobody in, the oldest of too many. Refuses to be filled with the
/// rest.
async fn make_room(registry: &Registry, now: i64) -> Result<(), AdmissionError> {
    let stored = registry.list::<TokenRecord>().await?;
    let (good, spent): (Vec<_>, Vec<_>) = stored.into_iter().partition(|stored| lets_in(&stored.value, now));
    let (old, mut kept): (Vec<_>, Vec<_>) =
        spent.into_iter().partition(|stored| stored.value.expires + KEPT_SECONDS < now);
    let too_many = kept.len().saturating_sub(SPENT_MAX);
    kept.sort_by_key(|stored| stored.value.created);
    let early = kept.iter().filter(|stored| is_dispensable(&stored.value, now)).take(too_many);
    for stored in old.iter().chain(early) {
        let id = &stored.value.id;
        // Whoever was faster has deleted it.
        registry.commit(Change::default().expect::<TokenRecord>(id, stored.revision).delete::<TokenRecord>(id)).await?;
    }
    if good.len() >= TOKENS_MAX { Err(AdmissionError::TooManyTokens { count: good.len() }) } else { Ok(()) }
}

/// Whether a node can join with it. One that is bound lets its own node in again after its last use.
fn lets_in(record: &TokenRecord, now: i64) -> bool {
    let is_bound = record.name.is_some() || record.hardware.is_some();
    !record.revoked && now < record.expires && (is_bound || !is_used_up(record))
}

/// Whether nobody needs the record of a token that lets nobody in. That one which was made offline was used or revoked is known from
/// its record alone, so it has that until it has expired by every clock.
fn is_dispensable(record: &TokenRecord, now: i64) -> bool {
    if record.secret_hash.is_none() {
        return record.expires + CLOCK_SLACK_SECONDS <= now;
    }
    record.redemptions.iter().all(|redemption| redemption.at + JOIN_AGAIN_SECONDS <= now)
}

fn is_used_up(record: &TokenRecord) -> bool {
    u32::try_from(record.redemptions.len()).unwrap_or(u32::MAX) >= record.uses
}

/// In the form in which machines say theirs; a keelctl of an older release may have signed another one.
fn hardware(text: &str) -> String {
    validation::uuid(text).unwrap_or_else(|| text.to_ascii_lowercase())
}

fn record_of(claims: &Claims, by: &str, now: i64) -> TokenRecord {
    TokenRecord {
        version: 1,
        id: claims.id.clone(),
        secret_hash: None,
        role: role_of(claims.role),
        expires: claims.expires,
        uses: claims.uses,
        redemptions: Vec::new(),
        name: claims.name.clone(),
        hardware: claims.hardware.as_deref().map(hardware),
        revoked: false,
        created: now,
        created_by: by.to_owned(),
    }
}

fn entry(record: &TokenRecord, now: i64) -> TokenEntry {
    TokenEntry {
        id: record.id.clone(),
        role: token_role(record.role),
        state: match () {
            () if record.revoked => TokenState::Revoked,
            () if is_used_up(record) => TokenState::Used,
            () if now >= record.expires => TokenState::Expired,
            () => TokenState::Valid,
        },
        expires: timestamp(record.expires),
        uses: record.uses,
        used_by: record.redemptions.iter().map(|redemption| redemption.name.clone()).collect(),
        name: record.name.clone(),
        hardware: record.hardware.clone(),
        created_by: record.created_by.clone(),
    }
}

fn hash(secret: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, secret))
}

fn random_id() -> Result<String, AdmissionError> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| AdmissionError::NoRandomness)?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

pub(crate) fn timestamp(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
