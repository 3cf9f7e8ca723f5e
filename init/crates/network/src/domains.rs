//! Domain names as DNS has them on the wire (RFC 1035, 3.1), and addresses of resolvers, as strangers say them.

use std::net::Ipv6Addr;

/// Of one option; the resolver file takes six.
const DOMAINS_MAX: usize = 8;
const NAME_MAX: usize = 253;

/// The names in an option, up to the first that is none. Zeroes fill it up.
pub fn parse(mut bytes: &[u8]) -> Vec<String> {
    let mut domains = Vec::new();
    while domains.len() < DOMAINS_MAX {
        let Some((name, rest)) = name(bytes) else { break };
        if !name.is_empty() {
            domains.push(name);
        }
        bytes = rest;
    }
    domains
}

/// One name and what follows it. Pointers are for DNS messages only; other characters than a host name has would be somebody
/// else's syntax in the resolver file.
fn name(mut bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut name = String::new();
    loop {
        let (length, rest) = bytes.split_first()?;
        let length = usize::from(*length);
        if length == 0 {
            return Some((name, rest));
        }
        let (label, rest) = rest.split_at_checked(length).filter(|_| length < 64)?;
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.iter().all(plain) || name.len() + length >= NAME_MAX {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        bytes = rest;
    }
}

/// Whether a resolver can have this address. A link-local one would need its link named, which pods have under another name.
pub fn may_be_asked(address: &Ipv6Addr) -> bool {
    !address.is_multicast() && !address.is_unspecified() && !address.is_loopback() && !address.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_up_to_the_first_that_is_none() {
        assert_eq!(parse(b"\x04Test\x07example\0\x01a\0\0\0"), ["test.example", "a"]);
        assert_eq!(parse(b"\x01a\0\x03b\nc\0\x01d\0"), ["a"]);
        assert_eq!(parse(b"\xc0\x0c"), Vec::<String>::new());
        assert_eq!(parse(b"\x3f"), Vec::<String>::new());
    }

    #[test]
    fn only_addresses_of_hosts_are_resolvers() {
        let may = |text: &str| may_be_asked(&text.parse().unwrap());
        assert!(may("2001:db8::1") && may("fd00::53"));
        assert!(!may("::") && !may("::1") && !may("ff02::1") && !may("fe80::1"));
    }
}
