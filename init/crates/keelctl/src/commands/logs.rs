//! `keelctl logs`: a service's log, as it comes.

use std::fmt::Write;

use http_body_util::BodyExt;
use keelson_api::paths;

use crate::{cli, client::ClientError, error::Error, output, session::Session};

pub(super) async fn run(mut session: Session, arguments: &cli::Logs) -> Result<(), Error> {
    let path = format!(
        "{}?lines={}&follow={}",
        paths::service_logs(&escape(&arguments.service)),
        arguments.lines,
        arguments.follow
    );
    let mut body = session.stream(&path).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| Error::Client {
            endpoint: session.context.endpoint.to_string(),
            source: ClientError::Request(source),
        })?;
        if let Ok(bytes) = frame.into_data() {
            output::bytes(&printable(&bytes))?;
        }
    }
    Ok(())
}

/// For a path: whatever is not a service's name anyway is escaped, and the node says that there is no such service.
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// keelson-log has escaped what would steer a terminal; a node that is not what it says may send it all the same.
fn printable(bytes: &[u8]) -> Vec<u8> {
    let allowed = |byte: &u8| !byte.is_ascii_control() || matches!(byte, b'\n' | b'\t');
    bytes.iter().map(|byte| if allowed(byte) { *byte } else { b'?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_the_path_and_lines_for_the_terminal() {
        assert_eq!(escape("kube-proxy"), "kube-proxy");
        assert_eq!(escape("../a b?"), "%2E%2E%2Fa%20b%3F");
        assert_eq!(printable("a\tä\x1b[1m\n".as_bytes()), "a\tä?[1m\n".as_bytes());
    }
}
