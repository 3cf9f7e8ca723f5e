//! `keelctl token`: what nodes join with.

use keelson_api::{
    CreatedToken, Token, TokenEntry, TokenList, TokenRequest, TokenRole, TokenState, paths,
    token::{Claims, bounds_problem, signed_message},
};
use rcgen::{KeyPair, PublicKeyData};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    age,
    cli::{self, Format, OutputFormat},
    config::Config,
    error::Error,
    key::{KeyError, OperatorKey},
    output::{self, Table},
    session::Session,
};

pub(super) async fn create(mut session: Session, arguments: &cli::CreateToken) -> Result<(), Error> {
    let request = TokenRequest {
        role: role(arguments.role),
        ttl_seconds: seconds(arguments),
        uses: arguments.uses,
        name: arguments.name.clone(),
        hardware: arguments.hardware.clone(),
        endpoints: arguments.endpoints.clone(),
    };
    let created: CreatedToken = session.post(paths::TOKENS, &request).await?;
    print(arguments, &created)
}

/// A token that the cluster believes because an operator's key has signed it. Nobody is asked.
pub(super) fn create_offline(
    config: &Config,
    context: Option<&str>,
    arguments: &cli::CreateToken,
) -> Result<(), Error> {
    let ttl = seconds(arguments);
    if let Some((field, problem)) = bounds_problem(i64::from(ttl), arguments.uses, arguments.name.is_some()) {
        return Err(Error::Token { field, problem });
    }
    let context = config.context(context)?;
    let key = OperatorKey::read(&context.key)?;
    let now = OffsetDateTime::now_utc();
    let expires = now + time::Duration::seconds(i64::from(ttl));
    let endpoints = match arguments.endpoints.as_slice() {
        [] => vec![context.endpoint.authority()],
        endpoints => endpoints.to_vec(),
    };
    let claims = Claims {
        id: random_id()?,
        cluster: arguments.cluster.clone().unwrap_or_default(),
        fingerprint: context.fingerprint.hexadecimal(),
        endpoints,
        role: role(arguments.role),
        expires: expires.unix_timestamp(),
        uses: arguments.uses,
        name: arguments.name.clone(),
        hardware: arguments.hardware.as_deref().map(str::to_ascii_lowercase),
        signer: Some(key.public()),
        issued: Some(now.unix_timestamp()),
    };
    let id = claims.id.clone();
    let mut failure = None;
    let token = Token::new(claims, |encoded| {
        key.sign_bytes(&signed_message(encoded)).unwrap_or_else(|error| {
            failure = Some(error);
            Vec::new()
        })
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    let token = token.map_err(|error| Error::Format(error.to_string()))?.expose();
    let expires = expires.format(&Rfc3339).map_err(|error| Error::Format(error.to_string()))?;
    print(arguments, &CreatedToken { token, id, expires })
}

fn role(role: cli::Role) -> TokenRole {
    match role {
        cli::Role::ControlPlane => TokenRole::ControlPlane,
        cli::Role::Worker => TokenRole::Worker,
    }
}

fn seconds(arguments: &cli::CreateToken) -> u32 {
    u32::try_from(arguments.ttl.as_secs()).unwrap_or(u32::MAX)
}

/// A key's public half is as random as its private one, and a key is what this program has random numbers from.
fn random_id() -> Result<String, Error> {
    let key = KeyPair::generate().map_err(KeyError::Generate)?;
    let point = key.subject_public_key_info();
    let last = point.iter().rev().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Ok(format!("{last:016x}"))
}

/// The line alone, so that it can be put into a file or a command.
fn print(arguments: &cli::CreateToken, created: &CreatedToken) -> Result<(), Error> {
    match arguments.output {
        OutputFormat::Table => output::line(&created.token),
        output => output::structured(Format { output }, created),
    }
}

pub(super) async fn list(mut session: Session, format: Format) -> Result<(), Error> {
    let list: TokenList = session.get(paths::TOKENS).await?;
    output::print(format, &list, || {
        let now = OffsetDateTime::now_utc();
        let mut table = Table::new(["ID", "ROLE", "STATE", "EXPIRES", "USES", "BOUND TO", "USED BY", "MADE BY"]);
        for token in &list.tokens {
            table.row([
                token.id.clone(),
                token.role.to_string(),
                state(token.state).to_owned(),
                age::until(&token.expires, now),
                format!("{}/{}", token.used_by.len(), token.uses),
                token.name.clone().or_else(|| token.hardware.clone()).unwrap_or_else(|| "-".to_owned()),
                token.used_by.join(","),
                token.created_by.clone(),
            ]);
        }
        table
    })
}

fn state(state: TokenState) -> &'static str {
    match state {
        TokenState::Valid => "valid",
        TokenState::Used => "used",
        TokenState::Expired => "expired",
        TokenState::Revoked => "revoked",
        TokenState::Unknown => "?",
    }
}

pub(super) async fn revoke(mut session: Session, token: &str) -> Result<(), Error> {
    let id = Token::parse(token).map_or_else(|_| token.to_owned(), |token| token.claims.id);
    let entry: TokenEntry = session.delete(&paths::token(&id)).await?;
    output::line(&format!("the token {} is revoked; nodes that joined with it stay", entry.id))
}
