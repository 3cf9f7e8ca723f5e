//! One DNS question over TCP (RFC 1035, 4.2.2), enough to see that a cluster's resolver answers.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// The resolver answers from memory; this covers an emulated guest that is busy.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

const TYPE_A: u16 = 1;
const CLASS_INTERNET: u16 = 1;

/// Asks `server` for the first A record of `name`.
///
/// # Errors
/// `InvalidData` for an answer that is none or has no A record; otherwise what the connection says.
pub fn address_of(name: &str, server: SocketAddr) -> io::Result<Ipv4Addr> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_DEADLINE)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
    let question = question(name);
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    first_address(&answer, question.len())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no A record of {name} in the answer")))
}

fn question(name: &str) -> Vec<u8> {
    // Identifier 1, recursion desired, one question.
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_INTERNET.to_be_bytes());
    message
}

/// Records follow the repeated question, which is as long as ours was.
fn first_address(answer: &[u8], question_length: usize) -> Option<Ipv4Addr> {
    let mut rest = answer.get(question_length..)?;
    loop {
        // A name is labels up to a zero byte, or ends in a two-byte pointer (4.1.4).
        while let Some((&length, tail)) = rest.split_first() {
            if length & 0xc0 == 0xc0 {
                rest = tail.get(1..)?;
                break;
            }
            rest = tail.get(usize::from(length)..)?;
            if length == 0 {
                break;
            }
        }
        let kind = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
        let length = usize::from(u16::from_be_bytes(rest.get(8..10)?.try_into().ok()?));
        let data = rest.get(10..10 + length)?;
        if kind == TYPE_A {
            let octets: [u8; 4] = data.try_into().ok()?;
            return Some(octets.into());
        }
        rest = rest.get(10 + length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_address_behind_an_alias() {
        let asked = question("a.b");
        let mut answer = asked.clone();
        // CNAME c. by label, then A by pointer.
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 30, 0, 3, 1, b'c', 0]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96, 0, 1]);
        assert_eq!(first_address(&answer, asked.len()), Some(Ipv4Addr::new(10, 96, 0, 1)));
    }

    #[test]
    fn a_cut_answer_has_no_address() {
        let asked = question("a.b");
        let mut answer = asked.clone();
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96]);
        assert_eq!(first_address(&answer, asked.len()), None);
    }
}
