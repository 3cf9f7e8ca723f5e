//! `keelctl token`: what nodes join with.

use keelson_api::{
    CreatedToken, Token, TokenEntry, TokenList, TokenRequest, TokenRole, TokenState, paths,
    token::{Claims, TokenError, signed_message},
    validation::{is_token_id, token_problem, uuid},
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
    let created: CreatedToken = session.post(paths::TOKENS, &request(arguments)).await?;
    print(arguments, &created)
}

fn request(arguments: &cli::CreateToken) -> TokenRequest {
    // Whether it is one is for whoever judges the rest to say.
    let hardware = |text: &String| uuid(text).unwrap_or_else(|| text.clone());
    TokenRequest {
        role: role(arguments.role),
        ttl_seconds: u32::try_from(arguments.ttl.as_secs()).unwrap_or(u32::MAX),
        uses: arguments.uses,
        name: arguments.name.clone(),
        hardware: arguments.hardware.as_ref().map(hardware),
        endpoints: arguments.endpoints.clone(),
    }
}

/// A token that the cluster believes because an operator's key has signed it. Nobody is asked.
pub(super) fn create_offline(
    config: &Config,
    context: Option<&str>,
    arguments: &cli::CreateToken,
) -> Result<(), Error> {
    let context = config.context(context)?;
    let mut request = request(arguments);
    if request.endpoints.is_empty() {
        request.endpoints.push(context.endpoint.authority());
    }
    if let Some((field, problem)) = token_problem(&request) {
        return Err(Error::Token { field, problem });
    }
    let cluster = arguments.cluster.as_deref().and_then(uuid).ok_or_else(|| {
        let problem = "this is no cluster's id, which keelctl status shows".to_owned();
        Error::Token { field: "cluster", problem }
    })?;
    let key = OperatorKey::read(&context.key)?;
    let now = OffsetDateTime::now_utc();
    let expires = now + time::Duration::seconds(i64::from(request.ttl_seconds));
    let claims = Claims {
        id: random_id()?,
        cluster,
        fingerprint: context.fingerprint.hexadecimal(),
        endpoints: request.endpoints,
        role: request.role,
        expires: expires.unix_timestamp(),
        uses: request.uses,
        name: request.name,
        hardware: request.hardware,
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
    let entry: TokenEntry = session.delete(&paths::token(&id_of(token)?)).await?;
    output::line(&format!("the token {} is revoked; nodes that joined with it stay", entry.id))
}

/// What was typed may be all of a token but an end, so it is not repeated.
fn id_of(text: &str) -> Result<String, Error> {
    let id = match Token::parse(text) {
        Ok(token) => token.claims.id,
        Err(TokenError::Form) => text.to_owned(),
        Err(error) => return Err(Error::Argument(error.to_string())),
    };
    if is_token_id(&id) { Ok(id) } else { Err(Error::Argument("this is neither a token nor the id of one".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_and_no_id_of_one_is_a_mistake_in_the_arguments_and_not_repeated() {
        assert_eq!(id_of("0123456789abcdef").expect("an id"), "0123456789abcdef");
        for text in ["", "0123456789abcde", "0123456789ABCDEF", "../a", "keelson1.c2VjcmV0.c2VjcmV0"] {
            let error = id_of(text).expect_err(text);
            assert!(matches!(&error, Error::Argument(problem) if !problem.contains("c2VjcmV0")), "{error:?}");
        }
    }
}
