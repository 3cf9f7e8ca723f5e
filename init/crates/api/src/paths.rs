//! The paths of the API.
//!
//! What stands in the place of a path's braces is percent-encoded (RFC 3986, 2.1), so that whatever somebody types as a name stays one
//! segment: no name ends the path, or leads to another one.

use std::borrow::Cow;
use std::fmt::Write as _;

pub const AUTHORITY: &str = "/v1/ca";
/// Its exchange for another one, with all that it and its siblings have signed.
pub const AUTHORITY_ROTATION: &str = "/v1/ca/rotation";
/// Whether a node has a cluster, for one that is about to found one.
pub const MEMBERSHIP: &str = "/v1/membership";
pub const CHALLENGE: &str = "/v1/operators/challenge";
pub const OPERATOR_CERTIFICATE: &str = "/v1/operators/certificate";
pub const OPERATORS: &str = "/v1/operators";
/// The name of the operator, or the id of one key, stands in the braces.
pub const OPERATOR: &str = "/v1/operators/{name}";
pub const KUBECONFIG: &str = "/v1/kubeconfig";
pub const STATUS: &str = "/v1/status";
pub const CONFIGURATION: &str = "/v1/config";
/// What operators say of all nodes.
pub const CLUSTER_CONFIGURATION: &str = "/v1/config/cluster";
/// What they say of one, whose name stands in the braces.
pub const NODE_CONFIGURATION: &str = "/v1/config/nodes/{name}";
/// Those that the node has.
pub const CERTIFICATES: &str = "/v1/certificates";
pub const NODES: &str = "/v1/nodes";
/// The name of the node stands in the braces, here and in the following.
pub const NODE_REMOVAL: &str = "/v1/nodes/{name}/removal";
pub const NODE_CORDON: &str = "/v1/nodes/{name}/cordon";
pub const NODE_UNCORDON: &str = "/v1/nodes/{name}/uncordon";
pub const NODE_DRAIN: &str = "/v1/nodes/{name}/drain";
pub const SERVICES: &str = "/v1/services";
/// The name of the service stands in the braces.
pub const SERVICE_LOGS: &str = "/v1/services/{name}/logs";
/// How the API servers are, as the node's proxy finds.
pub const PROXY: &str = "/v1/proxy";
pub const BOOTS: &str = "/v1/boots";
/// The number of the boot stands in the braces.
pub const BOOT: &str = "/v1/boots/{number}";
pub const REBOOT: &str = "/v1/reboot";
pub const POWER_OFF: &str = "/v1/power-off";
pub const TOKENS: &str = "/v1/tokens";
/// The id of the token stands in the braces.
pub const TOKEN: &str = "/v1/tokens/{id}";
pub const JOIN: &str = "/v1/join";
pub const NODE_SETTINGS: &str = "/v1/node/settings";
pub const NODE_CERTIFICATES: &str = "/v1/node/certificates";
pub const NODE_STORE_MEMBER: &str = "/v1/node/store-member";
/// The members of the store, for operators.
pub const STORE_MEMBERS: &str = "/v1/store/members";
pub const FEATURES: &str = "/v1/features";
/// The name of the feature stands in the braces.
pub const FEATURE: &str = "/v1/features/{name}";
pub const EVENTS: &str = "/v1/events";
/// Where kube-apiserver asks about identities that were removed.
pub const DENIALS: &str = "/v1/denials";
pub const OPENAPI: &str = "/v1/openapi.json";

/// The path of one service's log.
pub fn service_logs(name: &str) -> String {
    SERVICE_LOGS.replace("{name}", &escaped(name))
}

/// The path of one token.
pub fn token(id: &str) -> String {
    TOKEN.replace("{id}", &escaped(id))
}

/// The path of one operator.
pub fn operator(name: &str) -> String {
    OPERATOR.replace("{name}", &escaped(name))
}

/// The path of one feature.
pub fn feature(name: &str) -> String {
    FEATURE.replace("{name}", &escaped(name))
}

/// The path of one boot.
pub fn boot(number: u64) -> String {
    BOOT.replace("{number}", &number.to_string())
}

/// The path of what is done with one node: one of those above.
pub fn node(template: &str, name: &str) -> String {
    template.replace("{name}", &escaped(name))
}

/// What a segment of a path says; `None` if it is what no name is: malformed, a path of its own, or with control characters.
pub fn parameter(segment: &str) -> Option<Cow<'_, str>> {
    unescaped(segment).filter(|text| !text.contains(|character: char| character == '/' || character.is_control()))
}

/// What may stand in a segment as it is stays so: a server of an older release takes that literally.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn unescaped(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::new();
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { digit(rest.next()?)? << 4 | digit(rest.next()?)? } else { byte });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_is_it_stays_one_segment_and_is_read_as_it_was() {
        for name in ["w1", "ann@example.org", "w 1", "ann?x", "a#b", "50%", "%2e", "ä\u{1f980}", "..", "a\\b|{c}"] {
            let path = node(NODE_CORDON, name);
            let segment = path.strip_prefix("/v1/nodes/").and_then(|rest| rest.strip_suffix("/cordon")).unwrap();
            assert!(segment.is_ascii() && !segment.contains([' ', '/', '?', '#', '{']), "{segment}");
            assert_eq!(parameter(segment).as_deref(), Some(name), "{segment}");
        }
        assert_eq!(service_logs("../a b?"), "/v1/services/..%2Fa%20b%3F/logs");
        assert_eq!(operator("ann?x"), "/v1/operators/ann%3Fx");
        assert_eq!((token("a/b"), feature("a\n")), ("/v1/tokens/a%2Fb".to_owned(), "/v1/features/a%0A".to_owned()));
    }

    #[test]
    fn names_that_can_be_are_as_they_were_before() {
        for name in ["kube-proxy", "keelson-0d1e.example", "ann_b@example.org", "0123456789abcdef"] {
            assert_eq!(escaped(name), name);
        }
    }

    #[test]
    fn a_segment_that_says_no_name_is_none() {
        for segment in ["a%2Fb", "%2F", "%00", "a%0Ab", "%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(parameter(segment), None, "{segment}");
        }
    }
}
