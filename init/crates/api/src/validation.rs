//! What a value must look like wherever it is said: keelctl refuses without asking anybody what every server would refuse.
//!
//! A server knows more, such as the names that its cluster's settings reserve, and judges by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use uuid::Uuid;

use crate::token::{TokenRequest, bounds_problem};

/// `hostname-override` and labels take no more.
const NODE_NAME_MAX: usize = 63;
/// In words, as a clause.
pub const NODE_NAME_FORM: &str = "a name has lower-case letters, digits, hyphens and dots, at most 63";
/// What is wrong with a name that one of the API servers may be called by.
pub const RESERVED: &str = "the name belongs to the API server or to the cluster's services";
/// Of a DNS name and of one label of it (RFC 1035, 2.3.4).
const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// More than a node needs to find one that answers. With this many a token's line is one that can be read.
pub const ENDPOINTS_MAX: usize = 8;

/// The form of a node's name.
pub fn is_node_name(name: &str) -> bool {
    name.len() <= NODE_NAME_MAX && name.split('.').all(|label| is_label(label, is_lower))
}

/// Why no cluster lets a node join under the name, if none does.
pub fn node_name_problem(name: &str) -> Option<&'static str> {
    if !is_node_name(name) {
        return Some(NODE_NAME_FORM);
    }
    if name.parse::<IpAddr>().is_ok() || name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Some("it looks like an address");
    }
    let reserved = ["kubernetes", "kubernetes.default"].contains(&name)
        || ["svc", "localhost"].into_iter().any(|zone| is_within(name, zone));
    reserved.then_some(RESERVED)
}

/// Whether a name is that of a zone, or of something in it.
pub fn is_within(name: &str, zone: &str) -> bool {
    name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
}

/// The form of a feature's name, also of one that only a later release has.
pub fn is_feature_name(name: &str) -> bool {
    is_label(name, is_lower)
}

/// The form of an operator's name, and of the id of a key.
pub fn is_operator_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

/// The form of a token's id, which is part of a key.
pub fn is_token_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A uuid in the one form in which machines and clusters say theirs, lower-case with hyphens; `None` if it is none.
pub fn uuid(text: &str) -> Option<String> {
    Uuid::parse_str(text).ok().map(|uuid| uuid.hyphenated().to_string())
}

/// Whether this is `HOST:PORT`, the host being a name, an IPv4 address or an IPv6 address in brackets.
pub fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    is_port && bracketed.map_or_else(|| is_host(host), |address| address.parse::<Ipv6Addr>().is_ok())
}

fn is_host(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = name.len() <= HOST_MAX && name.split('.').all(|label| is_label(label, inner));
    // No domain at the top is a number, so that is an address or nothing (RFC 1123, 2.1).
    is_name && (!name.rsplit('.').next().is_some_and(is_number) || host.parse::<Ipv4Addr>().is_ok())
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_label(label: &str, inner: impl Fn(u8) -> bool) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// What keeps a token from being made, wherever that is tried: a field, and what is wrong with it.
pub fn token_problem(request: &TokenRequest) -> Option<(&'static str, String)> {
    let TokenRequest { ttl_seconds, uses, name, hardware, endpoints, .. } = request;
    let bounds = bounds_problem(i64::from(*ttl_seconds), *uses, name.is_some());
    let name = || {
        let name = name.as_ref()?;
        let problem = node_name_problem(name)?;
        Some(("name", format!("{name:?} cannot be a node's name: {problem}")))
    };
    let hardware = || {
        let text = hardware.as_ref().filter(|text| uuid(text).is_none())?;
        Some(("hardware", format!("{text:?} is no uuid")))
    };
    bounds.or_else(name).or_else(hardware).or_else(|| endpoints_problem(endpoints))
}

fn endpoints_problem(endpoints: &[String]) -> Option<(&'static str, String)> {
    if endpoints.len() > ENDPOINTS_MAX {
        return Some(("endpoints", format!("at most {ENDPOINTS_MAX} are possible")));
    }
    let wrong = endpoints.iter().find(|endpoint| !is_endpoint(endpoint))?;
    Some(("endpoints", format!("{wrong:?} is not HOST:PORT")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Claims, TOKEN_MAX, TTL_MAX_SECONDS, Token, TokenRole, USES_MAX};

    fn request() -> TokenRequest {
        TokenRequest {
            role: TokenRole::Worker,
            ttl_seconds: 60,
            uses: 1,
            name: None,
            hardware: None,
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn a_uuid_has_one_form_however_it_is_typed() {
        let form = "4c4c4544-0038-4a10-8059-b7c04f4e3132";
        for typed in [
            form,
            "4C4C4544-0038-4A10-8059-B7C04F4E3132",
            "4c4c454400384a108059b7c04f4e3132",
            "{4c4c4544-0038-4a10-8059-b7c04f4e3132}",
            "urn:uuid:4c4c4544-0038-4a10-8059-b7c04f4e3132",
        ] {
            assert_eq!(uuid(typed).as_deref(), Some(form), "{typed}");
        }
        for other in ["", "c0ffee", "4c4c4544-0038-4a10-8059-b7c04f4e313g", "4c4c4544 0038 4a10 8059 b7c04f4e3132"] {
            assert_eq!(uuid(other), None, "{other:?}");
        }
    }

    #[test]
    fn an_endpoint_is_one_that_a_node_can_ask() {
        for good in
            ["192.0.2.1:6400", "[2001:db8::1]:6400", "cp.example:1", "CP-1:65535", "my_host:6400", "a.example.:1"]
        {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "",
            ":6400",
            "192.0.2.1",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1:+6400",
            "192.0.2.256:6400",
            "2001:db8::1:6400",
            "[2001:db8::1:6400",
            "[192.0.2.1]:6400",
            "a b:6400",
            "https://a:6400",
            "-a:6400",
            "a..b:6400",
            "a/b:6400",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
        assert!(!is_endpoint(&format!("{}.example:6400", "a".repeat(64))));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_told_by_its_field() {
        type Fault = fn(&mut TokenRequest);
        assert_eq!(token_problem(&request()), None);
        let faults: [(&str, Fault); 7] = [
            ("ttlSeconds", |request| request.ttl_seconds = TTL_MAX_SECONDS + 1),
            ("uses", |request| request.uses = 0),
            ("name", |request| request.name = Some("W 1".to_owned())),
            ("name", |request| request.name = Some("kubernetes".to_owned())),
            ("hardware", |request| request.hardware = Some("c0ffee".to_owned())),
            ("endpoints", |request| request.endpoints = vec!["192.0.2.1".to_owned()]),
            ("endpoints", |request| request.endpoints = vec!["192.0.2.1:6400".to_owned(); ENDPOINTS_MAX + 1]),
        ];
        for (field, fault) in faults {
            let mut request = request();
            fault(&mut request);
            assert_eq!(token_problem(&request).map(|(field, _)| field), Some(field), "{request:?}");
        }
    }

    #[test]
    fn the_longest_token_that_can_be_made_can_be_read() {
        let label = "a".repeat(LABEL_MAX);
        let host = format!("{label}.{label}.{label}.{}", "a".repeat(HOST_MAX - 3 * (LABEL_MAX + 1)));
        let longest = TokenRequest {
            role: TokenRole::ControlPlane,
            ttl_seconds: TTL_MAX_SECONDS,
            // A name is for one node, so this is longer than what may be.
            uses: USES_MAX,
            name: Some("a".repeat(NODE_NAME_MAX)),
            hardware: Some(Uuid::nil().to_string()),
            endpoints: vec![format!("{host}:65535"); ENDPOINTS_MAX],
        };
        assert_eq!(token_problem(&TokenRequest { uses: 1, ..longest.clone() }), None);
        let claims = Claims {
            id: "0".repeat(16),
            cluster: Uuid::nil().to_string(),
            fingerprint: "0".repeat(64),
            endpoints: longest.endpoints,
            role: longest.role,
            expires: i64::from(u32::MAX),
            uses: longest.uses,
            name: longest.name,
            hardware: longest.hardware,
            signer: Some("A".repeat(124)),
            issued: Some(i64::from(u32::MAX)),
        };
        // The longest signature by a P-256 key in ASN.1 has 72 bytes.
        let line = Token::new(claims.clone(), |_| vec![7; 72]).unwrap().expose();
        assert!(line.len() <= TOKEN_MAX, "{} characters", line.len());
        assert_eq!(Token::parse(&line).unwrap().claims, claims);
    }

    #[test]
    fn a_name_within_a_zone_ends_with_it_behind_a_dot() {
        assert!(is_within("svc", "svc") && is_within("a.svc", "svc"));
        assert!(!is_within("asvc", "svc") && !is_within("svc.a", "svc"));
    }
}
