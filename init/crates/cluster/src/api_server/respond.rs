//! Answers: JSON, refusals, log lines.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use keelson_api::{ErrorBody, ErrorCode};
use serde::Serialize;

use super::logs::LogBody;

/// What an answer carries.
#[derive(Debug)]
pub enum AnswerBody {
    Whole(Full<Bytes>),
    Log(LogBody),
}

pub type Answer = Response<AnswerBody>;

/// Why a request is refused.
#[derive(Debug, Clone, Eq, PartialEq)]
pub struct Refusal {
    pub body: ErrorBody,
    pub retry_after_seconds: Option<u64>,
}

impl From<ErrorBody> for Refusal {
    fn from(body: ErrorBody) -> Self {
        Self { body, retry_after_seconds: None }
    }
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ErrorBody::new(code, message).into()
    }

    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        ErrorBody::invalid(field, message).into()
    }

    /// A refusal whose message is an error with its causes.
    pub fn because(code: ErrorCode, error: &dyn Error) -> Self {
        Self::new(code, with_causes(error))
    }

    /// Says which field of the request it is about.
    #[must_use]
    pub fn about(mut self, field: &str) -> Self {
        self.body.field = Some(field.to_owned());
        self
    }

    pub fn into_answer(self) -> Answer {
        let status = StatusCode::from_u16(self.body.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = json(&self.body);
        *answer.status_mut() = status;
        if let Some(seconds) = self.retry_after_seconds {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// An answer of status 200. The types of the API always serialize; if one ever does not, the answer says so.
pub fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole("application/json", bytes.into()),
        Err(error) => {
            let mut answer = whole("text/plain", Bytes::from(error.to_string()));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}

pub fn whole(content_type: &'static str, bytes: Bytes) -> Answer {
    answer(content_type, AnswerBody::Whole(Full::new(bytes)))
}

pub fn log(body: LogBody) -> Answer {
    answer("text/plain; charset=utf-8", AnswerBody::Log(body))
}

fn answer(content_type: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The parameters of a query, each with its value, which is empty where there is none.
pub fn parameters(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// An error with its causes, on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Log(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Log(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Log(_) => SizeHint::default(),
        }
    }
}
