//! What the first stage tells the second: where its time went. JSON in a sealed memfd, whose number is an argument; both
//! sides are the same program, or at least of one image.

use std::io::{self, Read};
use std::os::fd::RawFd;

use keelson_sys::memfd;

use crate::boot::Span;

const ARGUMENT: &str = "--handover=";
/// More than any first stage has to say.
const MAX_BYTES: u64 = 64 * 1024;

pub(super) fn encode(spans: &[Span]) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(spans)?)
}

pub(super) fn argument(descriptor: RawFd) -> String {
    format!("{ARGUMENT}{descriptor}")
}

/// What the first stage handed over; nothing if there was no first stage, or if it cannot be read: timings are worth no
/// failure.
pub(crate) fn receive(mut arguments: impl Iterator<Item = String>) -> Vec<Span> {
    let descriptor = arguments.find_map(|argument| parse(&argument));
    descriptor.and_then(|descriptor| read(descriptor).ok()).unwrap_or_default()
}

fn parse(argument: &str) -> Option<RawFd> {
    argument.strip_prefix(ARGUMENT)?.parse().ok().filter(|descriptor| *descriptor > 2)
}

fn read(descriptor: RawFd) -> io::Result<Vec<Span>> {
    let mut text = Vec::new();
    memfd::adopt(descriptor)?.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn spans_survive_the_handover() {
        let spans = vec![Span {
            name: "root".to_owned(),
            start: Duration::from_millis(1500),
            length: Duration::from_millis(40),
        }];
        let sealed = memfd::sealed("test", &encode(&spans).unwrap()).unwrap();
        let arguments = ["/usr/bin/init".to_owned(), argument(sealed.into_raw_fd())];
        assert_eq!(receive(arguments.into_iter()), spans);
    }

    #[test]
    fn anything_else_is_no_handover() {
        for argument in ["--handover=", "--handover=x", "--handover=1", "single", "--handover=900"] {
            assert_eq!(receive([argument.to_owned()].into_iter()), []);
        }
    }
}
