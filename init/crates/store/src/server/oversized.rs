//! The refusal of a message that is larger than the transport takes, or nested deeper, in the words of etcd's: its clients know them, and the
//! code, which is another one in the library used here.

use axum::http::{HeaderValue, Response};
use tonic::Code;

use super::errors::Error;

/// What the library says, with the two sizes.
const OURS: &str = "Error, decoded message length too large: found ";
const BETWEEN: &str = " bytes, the limit is: ";
/// How what it says ends where messages are nested too deep. Of requests, only transactions are; it names the message.
const TOO_DEEP: &str = "recursion limit reached";
const NESTED: &str = "TxnRequest";

pub(super) fn reword<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let theirs = headers.get("grpc-message").and_then(|message| theirs(&message.to_str().ok()?.replace("%20", " ")));
    if let Some((code, message)) = theirs
        && let Ok(message) = HeaderValue::try_from(percent(&message))
    {
        headers.insert("grpc-message", message);
        headers.insert("grpc-status", HeaderValue::from(code as i32));
    }
    response
}

fn theirs(message: &str) -> Option<(Code, String)> {
    if message.ends_with(TOO_DEEP) && message.contains(NESTED) {
        return Some((Error::TooManyOps.code(), Error::TooManyOps.to_string()));
    }
    let (found, limit) = message.strip_prefix(OURS)?.split_once(BETWEEN)?;
    let (found, limit): (usize, usize) = (found.parse().ok()?, limit.strip_suffix(" bytes")?.parse().ok()?);
    Some((Code::ResourceExhausted, format!("grpc: received message larger than max ({found} vs. {limit})")))
}

/// Spaces are allowed in the header, but some stacks encode them, and all decode.
fn percent(message: &str) -> String {
    message.replace(' ', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reworded(status: &str, message: &str) -> (String, String) {
        let response = Response::builder().header("grpc-status", status).header("grpc-message", message).body(());
        let response = reword(response.unwrap());
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        (header("grpc-status"), header("grpc-message"))
    }

    #[test]
    fn only_those_refusals_are_reworded() {
        let ours = "Error, decoded message length too large: found 70 bytes, the limit is: 60 bytes";
        let theirs = "grpc:%20received%20message%20larger%20than%20max%20(70%20vs.%2060)";
        assert_eq!(reworded("11", ours), ("8".to_owned(), theirs.to_owned()));
        assert_eq!(reworded("11", &percent(ours)), ("8".to_owned(), theirs.to_owned()));
        let deep = "failed to decode Protobuf message: TxnRequest.success: RequestOp.request: recursion limit reached";
        let theirs = "etcdserver:%20too%20many%20operations%20in%20txn%20request";
        assert_eq!(reworded("13", deep), ("3".to_owned(), theirs.to_owned()));
        let other = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(reworded("11", other), ("11".to_owned(), other.to_owned()));
    }
}
