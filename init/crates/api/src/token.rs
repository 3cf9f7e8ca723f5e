//! The join token: one line for a kernel command line, an SMBIOS string or a file.
//!
//! ```text
//! keelson1.CLAIMS.PROOF.CHECK
//! CLAIMS  base64url of the JSON of [`Claims`]
//! PROOF   base64url: 32 random bytes (made by a cluster), or a signature over CLAIMS (made offline)
//! CHECK   CRC-32 of all before its dot, eight hexadecimal digits
//! ```
//!
//! The check is against a cut line, not against people. The number behind `keelson` is the version: claims may be added
//! within it, and readers pass over those that they do not know.
//!
//! A cluster keeps a digest of the secret, never the secret, and believes its own record of the token, not the claims; they
//! are there for the node, which learns from them whom to ask and whom to believe. Of a token that was made offline there
//! is no record before its first use, so there the signature vouches for the claims: it is an operator's, over
//! [`signed_message`]. It says when it was made, and is believed within [`bounds_problem`] from then on only: so one of which
//! nothing but the id is known can be revoked for as long as it could live.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What every token of this version begins with.
const PREFIX: &str = "keelson1";
/// The first line of what is signed. A change of the form below changes its number.
const HEADING: &str = "keelson join token 1";
pub const SECRET_BYTES: usize = 32;
/// Longer than any token that can be made: [`crate::validation::ENDPOINTS_MAX`] endpoints with the longest names that there are.
pub(crate) const TOKEN_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenRole {
    ControlPlane,
    Worker,
}

impl TokenRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a token says. The names are short because the line is typed into firmware forms.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Claims {
    pub id: String,
    /// The cluster's id.
    #[serde(rename = "cl")]
    pub cluster: String,
    /// SHA-256 of the API authority's certificate, in lower-case hexadecimal.
    #[serde(rename = "fp")]
    pub fingerprint: String,
    /// Control planes' APIs, `ADDRESS:PORT`.
    #[serde(rename = "ep")]
    pub endpoints: Vec<String>,
    pub role: TokenRole,
    /// Seconds since the epoch.
    #[serde(rename = "exp")]
    pub expires: i64,
    pub uses: u32,
    /// The only name that a node may join under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The SMBIOS uuid of the only machine that may use it.
    #[serde(rename = "hw", default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Made offline: the operator's public key, base64 of the DER `SubjectPublicKeyInfo`.
    #[serde(rename = "by", default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Made offline: when, in seconds since the epoch.
    #[serde(rename = "iat", default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<i64>,
}

#[derive(Clone, Eq, PartialEq)]
pub struct Token {
    pub claims: Claims,
    /// The claims as they were signed.
    encoded: String,
    proof: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("this is no join token: one begins with {PREFIX}.")]
    Form,
    #[error("the join token is cut off or damaged: copy the whole line")]
    Truncated,
    #[error("the join token is of a form that this release does not know")]
    Claims,
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Token").field("id", &self.claims.id).finish_non_exhaustive()
    }
}

impl Token {
    /// With the secret's bytes, or, for one made offline, what [`signed_message`] was signed with.
    pub fn new(claims: Claims, prove: impl FnOnce(&str) -> Vec<u8>) -> Result<Self, serde_json::Error> {
        let encoded = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?);
        let proof = prove(&encoded);
        Ok(Self { claims, encoded, proof })
    }

    /// The line. It is a secret.
    pub fn expose(&self) -> String {
        let line = format!("{PREFIX}.{}.{}", self.encoded, URL_SAFE_NO_PAD.encode(&self.proof));
        format!("{line}.{:08x}", crc32fast::hash(line.as_bytes()))
    }

    pub fn parse(line: &str) -> Result<Self, TokenError> {
        let line = line.trim();
        if !line.starts_with("keelson") || line.len() > TOKEN_MAX {
            return Err(TokenError::Form);
        }
        let (checked, check) = line.rsplit_once('.').ok_or(TokenError::Truncated)?;
        if check.len() != 8 || u32::from_str_radix(check, 16) != Ok(crc32fast::hash(checked.as_bytes())) {
            return Err(TokenError::Truncated);
        }
        let mut parts = checked.split('.');
        let (Some(PREFIX), Some(encoded), Some(proof), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Claims);
        };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Claims);
        let claims = serde_json::from_slice(&decode(encoded)?).map_err(|_| TokenError::Claims)?;
        Ok(Self { claims, encoded: encoded.to_owned(), proof: decode(proof)? })
    }

    /// What the signature of a token that was made offline is over.
    pub fn signed_message(&self) -> Vec<u8> {
        signed_message(&self.encoded)
    }

    /// The secret or the signature.
    pub fn proof(&self) -> &[u8] {
        &self.proof
    }
}

/// The bytes that an operator signs to make a token offline, from the claims as the line carries them.
pub fn signed_message(encoded: &str) -> Vec<u8> {
    format!("{HEADING}\n{encoded}\n").into_bytes()
}

/// What a new token shall be good for.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    pub role: TokenRole,
    /// For how long, at most 366 days.
    #[serde(default = "ttl_default")]
    pub ttl_seconds: u32,
    /// How many nodes may join with it.
    #[serde(default = "uses_default")]
    pub uses: u32,
    /// The only name that a node may join under. Whoever holds that name already is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The SMBIOS uuid of the only machine that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Where the node is to ask; the control planes' own addresses if nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

pub const TTL_DEFAULT_SECONDS: u32 = 60 * 60;
pub const TTL_MAX_SECONDS: u32 = 366 * 24 * 60 * 60;
/// More nodes than join with one token.
pub const USES_MAX: u32 = 10_000;

/// What keeps a token from being as it is wanted, wherever it is made: a field of [`TokenRequest`], and what it may be.
pub fn bounds_problem(ttl_seconds: i64, uses: u32, has_name: bool) -> Option<(&'static str, String)> {
    if !(1..=i64::from(TTL_MAX_SECONDS)).contains(&ttl_seconds) {
        return Some(("ttlSeconds", format!("a token lives for 1 to {TTL_MAX_SECONDS} seconds")));
    }
    if !(1..=USES_MAX).contains(&uses) {
        return Some(("uses", format!("a token is good for 1 to {USES_MAX} nodes")));
    }
    (has_name && uses != 1).then(|| ("uses", "a token that is bound to a name is good for one node".to_owned()))
}

const fn ttl_default() -> u32 {
    TTL_DEFAULT_SECONDS
}

const fn uses_default() -> u32 {
    1
}

/// The only answer that ever holds the token itself.
#[derive(Clone, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    pub token: String,
    pub id: String,
    pub expires: String,
}

impl fmt::Debug for CreatedToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CreatedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenList {
    pub tokens: Vec<TokenEntry>,
}

/// A token without its secret.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenEntry {
    pub id: String,
    pub role: TokenRole,
    pub state: TokenState,
    pub expires: String,
    pub uses: u32,
    /// The names of the nodes that joined with it.
    pub used_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Who made it.
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TokenState {
    Valid,
    Used,
    Expired,
    Revoked,
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            id: "0d1e".to_owned(),
            cluster: "c".to_owned(),
            fingerprint: "ab".repeat(32),
            endpoints: vec!["192.0.2.1:6400".to_owned(), "[2001:db8::1]:6400".to_owned()],
            role: TokenRole::Worker,
            expires: 1_800_000_000,
            uses: 1,
            name: None,
            hardware: None,
            signer: None,
            issued: None,
        }
    }

    #[test]
    fn its_life_and_uses_have_bounds_and_a_name_is_for_one() {
        let field = |ttl, uses, has_name| bounds_problem(ttl, uses, has_name).map(|(field, _)| field);
        let longest = i64::from(TTL_MAX_SECONDS);
        for (ttl, uses, has_name) in [(1, 1, true), (longest, USES_MAX, false)] {
            assert_eq!(field(ttl, uses, has_name), None, "{ttl} {uses} {has_name}");
        }
        for ttl in [i64::MIN, -1, 0, longest + 1] {
            assert_eq!(field(ttl, 1, false), Some("ttlSeconds"), "{ttl}");
        }
        for (uses, has_name) in [(0, false), (USES_MAX + 1, false), (2, true)] {
            assert_eq!(field(60, uses, has_name), Some("uses"), "{uses} {has_name}");
        }
    }

    #[test]
    fn is_read_as_it_was_made() {
        let token = Token::new(claims(), |_| vec![7; SECRET_BYTES]).unwrap();
        let line = token.expose();
        assert!(line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{line}");
        assert_eq!(Token::parse(&format!(" {line}\n")).unwrap(), token);
        assert!(line.len() < 512, "{} characters", line.len());
    }

    #[test]
    fn a_line_cut_anywhere_is_told_from_one_that_is_no_token() {
        let line = Token::new(claims(), |_| vec![7; SECRET_BYTES]).unwrap().expose();
        for length in PREFIX.len()..line.len() {
            assert_eq!(Token::parse(&line[..length]), Err(TokenError::Truncated), "{length} characters");
        }
        for position in PREFIX.len() + 1..line.len() {
            let mut damaged = line.clone().into_bytes();
            damaged[position] = if damaged[position] == b'A' { b'B' } else { b'A' };
            assert!(Token::parse(&String::from_utf8(damaged).unwrap()).is_err(), "position {position}");
        }
        for other in ["", "K10abc::server:def", "abcdef.0123456789abcdef"] {
            assert_eq!(Token::parse(other), Err(TokenError::Form), "{other:?}");
        }
    }

    #[test]
    fn a_later_version_is_refused_as_such() {
        let line = "keelson2.e30.e30";
        let line = format!("{line}.{:08x}", crc32fast::hash(line.as_bytes()));
        assert_eq!(Token::parse(&line), Err(TokenError::Claims));
    }

    #[test]
    fn what_is_signed_are_the_claims_as_the_line_carries_them() {
        let token = Token::new(claims(), signed_message).unwrap();
        assert_eq!(token.proof(), token.signed_message());
        let read = Token::parse(&token.expose()).unwrap();
        assert_eq!(read.signed_message(), token.signed_message());
    }

    #[test]
    fn is_not_shown_by_accident() {
        let token = Token::new(claims(), |_| b"secret".to_vec()).unwrap();
        assert_eq!(format!("{token:?}"), "Token { id: \"0d1e\", .. }");
    }
}
