//! Join tokens: made, shown, revoked, and judged when they are used.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::token::{Claims, SECRET_BYTES, TTL_MAX_SECONDS, bounds_problem};
use keelson_api::{CreatedToken, EventKind, Token, TokenEntry, TokenList, TokenRequest, TokenRole, TokenState};
use keelson_pki::Fingerprint;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Admission, AdmissionError, names, role_of, token_role};
use crate::registry::{Change, Registry, Stored, TokenRecord};

/// A fleet has one token for many machines; more tokens than this are forgotten ones.
const TOKENS_MAX: usize = 1000;
/// Expired ones are kept this long, so that who comes late is told what is wrong.
const KEPT_SECONDS: i64 = 7 * 24 * 60 * 60;
/// How far an operator's clock may be ahead of ours; less than a revocation is kept for beyond the longest life.
const CLOCK_SLACK_SECONDS: i64 = 60 * 60;
const ENDPOINTS_MAX: usize = 8;

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
            hardware: request.hardware.as_deref().map(str::to_ascii_lowercase),
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
        let field = |field, problem: String| Err(AdmissionError::Field { field, problem });
        let ttl = i64::from(request.ttl_seconds);
        if let Some((name, problem)) = bounds_problem(ttl, request.uses, request.name.is_some()) {
            return field(name, problem);
        }
        if let Some((name, problem)) =
            request.name.as_ref().and_then(|name| Some((name, names::problem(name, self.cluster)?)))
        {
            return field("name", format!("{name:?} cannot be a node's name: {problem}"));
        }
        if request.hardware.as_ref().is_some_and(|uuid| uuid::Uuid::parse_str(uuid).is_err()) {
            return field("hardware", "this is no uuid".to_owned());
        }
        if request.endpoints.len() > ENDPOINTS_MAX {
            return field("endpoints", format!("at most {ENDPOINTS_MAX} are possible"));
        }
        match request.endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
            Some(endpoint) => field("endpoints", format!("{endpoint:?} is not HOST:PORT")),
            None => Ok(()),
        }
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

    /// Revokes a token; one that is not known may have been made offline, and is revoked before its first use.
    pub async fn revoke_token(&self, id: &str, by: &str) -> Result<TokenEntry, AdmissionError> {
        if !is_id(id) {
            return Err(AdmissionError::NoToken);
        }
        for attempt in 0..super::ATTEMPTS {
            let stored = self.registry.get::<TokenRecord>(id).await?;
            let (revision, mut record) = if let Some(Stored { revision, value }) = stored {
                (revision, value)
            } else {
                make_room(self.registry, self.now()).await?;
                (0, self.unknown(id, by))
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
            if matches!(entry(&stored.value, now).state, TokenState::Valid) {
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

/// Forgets what expired long ago, and refuses to be filled.
async fn make_room(registry: &Registry, now: i64) -> Result<(), AdmissionError> {
    let stored = registry.list::<TokenRecord>().await?;
    let old: Vec<_> = stored.iter().filter(|stored| stored.value.expires + KEPT_SECONDS < now).collect();
    let count = stored.len() - old.len();
    for stored in old {
        let id = &stored.value.id;
        // Whoever was faster has deleted it.
        registry.commit(Change::default().expect::<TokenRecord>(id, stored.revision).delete::<TokenRecord>(id)).await?;
    }
    if count >= TOKENS_MAX { Err(AdmissionError::TooManyTokens { count }) } else { Ok(()) }
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
        hardware: claims.hardware.clone(),
        revoked: false,
        created: now,
        created_by: by.to_owned(),
    }
}

fn entry(record: &TokenRecord, now: i64) -> TokenEntry {
    let used = u32::try_from(record.redemptions.len()).unwrap_or(u32::MAX) >= record.uses;
    TokenEntry {
        id: record.id.clone(),
        role: token_role(record.role),
        state: match () {
            () if record.revoked => TokenState::Revoked,
            () if used => TokenState::Used,
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

/// Ids are part of keys.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_endpoint(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    text.len() <= 260 && text.bytes().all(allowed) && matches!(port, Some(Ok(1..)))
}

pub(crate) fn timestamp(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
