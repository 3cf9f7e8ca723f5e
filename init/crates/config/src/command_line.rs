//! The kernel's command line, split by the kernel's own rules (`next_arg` in lib/cmdline.c): words end at white space
//! outside double quotes, a quote at the start of a word or of its value is not part of it, and `-` and `_` are the
//! same in a key.
//!
//! Words that are neither `keelson.*` nor one of the network words belong to others and are left alone.

use std::ops::Range;

/// One word of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
    /// Where the value stands in the line, quotes excluded.
    span: Range<usize>,
}

/// Splits `line` into words. Never fails: an open quote reaches to the end, as in the kernel.
pub fn words(line: &[u8]) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut position = 0;
    while let Some(start) = next_start(line, position) {
        let (word, end) = word_at(line, start);
        words.push(word);
        position = end;
    }
    words
}

fn next_start(line: &[u8], from: usize) -> Option<usize> {
    line.iter().skip(from).position(|byte| !is_space(*byte)).map(|offset| from + offset)
}

/// The kernel ends the line at NUL; its `isspace` counts the vertical tab as well.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte == 0
}

fn word_at(line: &[u8], start: usize) -> (Word<'_>, usize) {
    let quoted = line.get(start) == Some(&b'"');
    let body = if quoted { start + 1 } else { start };
    let mut in_quotes = quoted;
    let mut equals = None;
    let mut end = line.len();
    for (index, &byte) in line.iter().enumerate().skip(body) {
        if is_space(byte) && !in_quotes {
            end = index;
            break;
        }
        if equals.is_none() && byte == b'=' && index > body {
            equals = Some(index);
        }
        if byte == b'"' {
            in_quotes = !in_quotes;
        }
    }
    let mut stop = end;
    let mut value_start = equals.map(|equals| equals + 1);
    let ends_in_quote = |stop: usize, from: usize| stop > from && line.get(stop - 1) == Some(&b'"');
    if let Some(from) = value_start
        && line.get(from) == Some(&b'"')
        && from < end
    {
        value_start = Some(from + 1);
        if ends_in_quote(stop, from + 1) {
            stop -= 1;
        }
    }
    if quoted && ends_in_quote(stop, value_start.unwrap_or(body)) {
        stop -= 1;
    }
    let key = line.get(body..equals.unwrap_or(stop)).unwrap_or_default();
    let span = value_start.map_or(stop..stop, |from| from..stop);
    let value = value_start.map(|_| line.get(span.clone()).unwrap_or_default());
    (Word { key, value, span }, end)
}

/// The line as it may be logged: values that are secret, or may hold one, are replaced. All else stays as it is.
pub fn redact(line: &[u8]) -> String {
    let mut shown = Vec::with_capacity(line.len());
    let mut copied = 0;
    for word in words(line) {
        let secret = word.value.is_some_and(|value| !value.is_empty()) && may_hold_a_secret(word.key);
        if secret {
            shown.extend_from_slice(line.get(copied..word.span.start).unwrap_or_default());
            shown.extend_from_slice(b"[redacted]");
            copied = word.span.end;
        }
    }
    shown.extend_from_slice(line.get(copied..).unwrap_or_default());
    String::from_utf8_lossy(&shown).trim_end_matches(['\0', '\n']).to_owned()
}

/// A document may hold a token or a registry's password. Misspelt names of either are treated alike.
fn may_hold_a_secret(key: &[u8]) -> bool {
    let key = String::from_utf8_lossy(key).to_ascii_lowercase();
    ["token", "document", "secret", "password", "credential"].iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<(String, Option<String>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        words(line.as_bytes()).iter().map(|word| (text(word.key), word.value.map(text))).collect()
    }

    fn pair(key: &str, value: &str) -> (String, Option<String>) {
        (key.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn splits_words_and_values() {
        assert_eq!(
            split("console=ttyS0  quiet\tkeelson.role=worker a=b=c\n"),
            [pair("console", "ttyS0"), ("quiet".into(), None), pair("keelson.role", "worker"), pair("a", "b=c")]
        );
    }

    #[test]
    fn quotes_keep_spaces_and_are_not_part_of_the_value() {
        assert_eq!(split(r#"a="b c" d"#), [pair("a", "b c"), ("d".into(), None)]);
        assert_eq!(split(r#""a=b c" d"#), [pair("a", "b c"), ("d".into(), None)]);
        assert_eq!(split(r#"a=b" "c"#), [pair("a", r#"b" "c"#)]);
        assert_eq!(split(r#"a="b c"#), [pair("a", "b c")]);
        assert_eq!(split(r#"a="" b="#), [pair("a", ""), pair("b", "")]);
        assert_eq!(split(r#"""#), [(String::new(), None)]);
        assert_eq!(split(r#"a=""#), [pair("a", "")]);
    }

    #[test]
    fn a_leading_equals_sign_starts_a_key() {
        assert_eq!(split("=a=b"), [pair("=a", "b")]);
    }

    #[test]
    fn redacts_tokens_and_documents_and_nothing_else() {
        assert_eq!(
            redact(b"a=1 keelson.token=s3cr3t \"keelson.token=x y\" keelson.token=\"x y\" keelson.document=QUJD b=\"2 3\"\n"),
            "a=1 keelson.token=[redacted] \"keelson.token=[redacted]\" keelson.token=\"[redacted]\" \
             keelson.document=[redacted] b=\"2 3\""
        );
        assert_eq!(redact(b"keelson.Token_x=s3cr3t"), "keelson.Token_x=[redacted]");
        assert_eq!(redact(b"keelson.token="), "keelson.token=");
    }
}
