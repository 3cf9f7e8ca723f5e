//! What an operator signs.
//!
//! The signed bytes are these lines, each ended by a line feed: a fixed heading with the version of this form, the API
//! authority's fingerprint, the nonce as it came, and the certificate request as it is sent. The nonce makes the proof
//! good for one attempt, the fingerprint for one cluster, and the request for one key: a proof that is overheard or
//! relayed yields a certificate only to the holder of the request's private key.

/// The first line. A change of the form below changes its number.
const HEADING: &str = "keelson operator proof 1";

/// The bytes to sign or verify. `authority_fingerprint` is the lower-case hexadecimal SHA-256 of the authority's DER.
pub fn message(authority_fingerprint: &str, nonce: &str, csr: &str) -> Vec<u8> {
    format!("{HEADING}\n{authority_fingerprint}\n{nonce}\n{csr}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_changes_the_message() {
        let message_of = |parts: [&str; 3]| message(parts[0], parts[1], parts[2]);
        let base = message_of(["aa", "bb", "cc"]);
        assert_ne!(base, message_of(["ab", "bb", "cc"]));
        assert_ne!(base, message_of(["aa", "bc", "cc"]));
        assert_ne!(base, message_of(["aa", "bb", "cd"]));
    }
}
