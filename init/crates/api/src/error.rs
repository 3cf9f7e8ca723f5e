//! How the API says no.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The body of every answer whose status is not 2xx.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    pub code: ErrorCode,
    /// One sentence for a person, with the cause and, where there is one, the remedy.
    pub message: String,
    /// The field of the request (a path such as `csr`, or a parameter's name) that the refusal is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Each thing that is wrong with a document, where the request has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FieldFault>,
}

/// One fault of a document; no value of a field is in it that may be a secret.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldFault {
    /// The path in the document, such as `spec.node.labels`.
    pub field: String,
    /// A clause.
    pub problem: String,
    /// What would be right, if there is such a thing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub allowed: String,
}

/// The kinds of refusal a program can act on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// 401: no operator's certificate was shown, or a proof does not hold.
    Unauthenticated,
    /// 400: the request cannot be understood; `field` says where.
    Invalid,
    /// 403: the join token is none of this cluster's, or its proof does not hold.
    TokenInvalid,
    /// 403: the join token is of another cluster.
    TokenForeign,
    /// 403
    TokenExpired,
    /// 403
    TokenRevoked,
    /// 403: as many nodes as may have joined with the token.
    TokenUsed,
    /// 403: the join token is for another role.
    TokenRole,
    /// 403: the join token is bound to another name or machine.
    TokenBound,
    /// 409: the name belongs to another node.
    NameInUse,
    /// 409: the address belongs to another node.
    AddressInUse,
    /// 409: the cluster cannot do that as it is now.
    Conflict,
    /// 410: the node was removed from the cluster.
    Removed,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 413
    TooLarge,
    /// 421: the node is a worker, and a control plane answers that. The same port passes on a connection that asks for
    /// `control-plane.keelson.internal` (TLS SNI).
    NotControlPlane,
    /// 429: too many attempts; the `Retry-After` header says when to try again.
    TooManyRequests,
    /// 503: a part of the node that the answer needs does not answer yet.
    Unavailable,
    /// 504: a part of the node took longer than the deadline.
    Timeout,
    /// 500
    Internal,
    /// A code of a newer release.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::Invalid => 400,
            Self::TokenInvalid
            | Self::TokenForeign
            | Self::TokenExpired
            | Self::TokenRevoked
            | Self::TokenUsed
            | Self::TokenRole
            | Self::TokenBound => 403,
            Self::NameInUse | Self::AddressInUse | Self::Conflict => 409,
            Self::Removed => 410,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooLarge => 413,
            Self::NotControlPlane => 421,
            Self::TooManyRequests => 429,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Internal | Self::Unknown => 500,
        }
    }
}

impl ErrorBody {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, faults: Vec::new() }
    }

    /// A refusal of one field of the request.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::Invalid, message) }
    }
}
