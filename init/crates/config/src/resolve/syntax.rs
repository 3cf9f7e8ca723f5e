//! The forms that names and numbers must have, each beside the sentence that says so.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub(crate) const NODE_NAME: &str = "at most 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit";
pub(crate) const DOMAIN: &str = "a DNS name of a-z, 0-9, '-' and '.'";
pub(crate) const LINK_NAME: &str = "a link's name (at most 15 characters) or a MAC address";
pub(crate) const HOST: &str = "a host name or an IP address";
pub(crate) const ADDRESS: &str = "an IP address";
pub(crate) const CIDR: &str = "NETWORK/LENGTH with no bit set past the length";
pub(crate) const MTU: &str = "a number from 576 to 65535";
pub(crate) const URL: &str = "http://HOST or https://HOST, without user name, blanks or quotes";
pub(crate) const LABEL_KEY: &str =
    "[PREFIX/]NAME, the prefix a DNS name, the name at most 63 of letters, digits, '-', '_' and '.'";
pub(crate) const LABEL_VALUE: &str = "at most 63 of letters, digits, '-', '_' and '.', or nothing";

/// RFC 1123: the name of every Kubernetes object that is a DNS subdomain.
pub(crate) fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A node's name is its host name too, for which Linux has 64 bytes; 63 is what fits a label's value.
pub(crate) fn is_node_name(text: &str) -> bool {
    text.len() <= 63 && is_domain(text) && text.parse::<IpAddr>().is_err()
}

/// `dev_valid_name` in net/core/dev.c, and no `:`, which was an alias's name.
pub(crate) fn is_link_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

pub(crate) fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_domain(&text.to_ascii_lowercase())
}

/// A host, and a port after it if there is one: `cp1`, `cp1:6400`, `[fd00::1]:6400`.
pub(crate) fn is_host_with_port(text: &str) -> bool {
    if is_host(text) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_ok = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.contains(':') && is_host(host),
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
}

pub(crate) fn mtu(text: &str) -> Option<u32> {
    text.parse().ok().filter(|mtu| (576..=65535).contains(mtu))
}

/// A network: an address whose host part is zero.
pub(crate) fn cidr(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().filter(|net| net.addr() == net.network())
}

/// A network with its prefix length or its netmask behind the slash.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let masked = || {
        let (address, mask) = text.split_once('/')?;
        IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
    };
    text.parse::<IpNet>().ok().or_else(masked).filter(|net| net.addr() == net.network())
}

/// A host's address with its prefix length or its netmask behind the slash.
pub(crate) fn interface_address(text: &str) -> Option<IpNet> {
    let (address, mask) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return None;
    }
    let net = match (address, mask.parse::<u8>(), mask.parse::<IpAddr>()) {
        (IpAddr::V4(address), Ok(length), _) => IpNet::V4(Ipv4Net::new(address, length).ok()?),
        (IpAddr::V6(address), Ok(length), _) => IpNet::V6(Ipv6Net::new(address, length).ok()?),
        (address, Err(_), Ok(mask)) => IpNet::with_netmask(address, mask).ok()?,
        _ => return None,
    };
    (net.prefix_len() > 0).then_some(net)
}

pub(crate) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    !text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'"' || byte == b'\'')
        && !authority.contains('@')
        && is_host_with_port(authority.trim_start_matches('[').strip_suffix(']').unwrap_or(authority))
}

/// A label's or taint's key (apimachinery's `IsQualifiedName`).
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_domain(prefix) && is_label_part(name),
        None => is_label_part(text),
    }
}

/// apimachinery's `IsValidLabelValue`.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_part(text)
}

fn is_label_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

pub(crate) fn is_flag_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A path below `/proc/sys`, with dots or slashes.
pub(crate) fn is_sysctl_key(text: &str) -> bool {
    let separator = if text.contains('/') { '/' } else { '.' };
    text.contains(separator)
        && text.split(separator).all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        })
}

pub(crate) fn is_certificate(text: &str) -> bool {
    let text = text.trim();
    text.starts_with("-----BEGIN CERTIFICATE-----") && text.ends_with("-----END CERTIFICATE-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(check: fn(&str) -> bool, right: &[&str], wrong: &[&str]) {
        for text in right {
            assert!(check(text), "{text:?} was refused");
        }
        for text in wrong {
            assert!(!check(text), "{text:?} was accepted");
        }
    }

    #[test]
    fn names() {
        holds(
            is_node_name,
            &["a", "node-1", "node1.example"],
            &["", "A", "-a", "a-", "a..b", "1.2.3.4", &"a".repeat(64)],
        );
        holds(is_link_name, &["eth0", "enp1s0.5", "br_x"], &["", "..", "a/b", "a b", "eth0:1", "sixteen-letters-"]);
        holds(
            is_host_with_port,
            &["cp1", "CP1.x", "1.2.3.4:6400", "fd00::1", "[fd00::1]:6400"],
            &["", "a:", "a:0", "[x]:1", "a b"],
        );
    }

    #[test]
    fn kubernetes_names() {
        holds(is_label_key, &["a", "A.b_c-d", "example.com/zone"], &["", "/a", "a/", "a/b/c", "-a", "Ex.com/a"]);
        holds(is_label_value, &["", "a", "1.2"], &["-", "a b", &"a".repeat(64)]);
        holds(is_flag_name, &["v", "feature-gates"], &["", "--v", "V", "v=2"]);
        holds(is_sysctl_key, &["vm.swappiness", "net/ipv4/conf/eth0.5/rp_filter"], &["vm", "a..b", "../x", "a/../b"]);
    }

    #[test]
    fn addresses_and_networks() {
        assert!(cidr("10.0.0.0/8").is_some() && cidr("10.1.0.0/8").is_none() && cidr("10.0.0.0").is_none());
        assert_eq!(interface_address("10.0.0.5/255.255.0.0"), interface_address("10.0.0.5/16"));
        for wrong in
            ["10.0.0.5", "10.0.0.5/33", "10.0.0.5/0", "0.0.0.0/8", "127.0.0.1/8", "10.0.0.5/255.0.255.0", "a/8"]
        {
            assert!(interface_address(wrong).is_none(), "{wrong:?} was accepted");
        }
        holds(
            is_url,
            &["https://a", "http://a:80/b?c", "https://[fd00::1]:443/x"],
            &["a", "ftp://a", "https://u:p@a", "https://", "https://a b"],
        );
    }
}
