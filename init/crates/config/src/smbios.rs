//! SMBIOS type 11, "OEM Strings": how hypervisors and some firmware hand a machine its settings
//! (DMTF DSP0134, sections 6.1.2, 6.1.3 and 7.12). The input is `/sys/firmware/dmi/tables/DMI`, the bare structures.
//!
//! A structure is a header (type, length, handle), a formatted area up to `length`, and strings, each ended by NUL, the
//! set ended by another NUL. A broken table ends the reading; what was read before it stands.
//!
//! A string is ours if it is a `keelson.*` word, as on the command line, or a systemd credential of such a name
//! (`io.systemd.credential:keelson.role=worker`, systemd.system-credentials(7)).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::ConfigError;
use crate::source::{Origin, Source};
use crate::words::Statement;

const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;
const HEADER: usize = 4;

/// The strings of all type 11 structures, in the table's order.
pub fn oem_strings(table: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = table;
    while let Some((structure, after)) = structure(rest) {
        match structure.kind {
            END_OF_TABLE => break,
            OEM_STRINGS => found.extend(structure.strings),
            _ => {}
        }
        rest = after;
    }
    found
}

struct Structure<'a> {
    kind: u8,
    strings: Vec<&'a [u8]>,
}

fn structure(bytes: &[u8]) -> Option<(Structure<'_>, &[u8])> {
    let kind = *bytes.first()?;
    let length = usize::from(*bytes.get(1)?);
    if length < HEADER {
        return None;
    }
    let mut rest = bytes.get(length..)?;
    let mut strings = Vec::new();
    // Without strings the set is two NULs; with strings each has its own NUL and one more ends the set.
    if let Some(after) = rest.strip_prefix(b"\0\0") {
        return Some((Structure { kind, strings }, after));
    }
    loop {
        let end = rest.iter().position(|&byte| byte == 0)?;
        let (string, after) = (rest.get(..end)?, rest.get(end + 1..)?);
        if string.is_empty() {
            return Some((Structure { kind, strings }, after));
        }
        strings.push(string);
        rest = after;
    }
}

/// What the table's type 11 strings say to this node.
pub fn from_table(table: &[u8]) -> Statement {
    let mut statement = Statement::default();
    for (index, string) in oem_strings(table).into_iter().enumerate() {
        let origin = Origin::Smbios(index + 1);
        if let Some(word) = string.strip_prefix(b"io.systemd.credential:") {
            say(&mut statement, &origin, word);
        } else if let Some(word) = string.strip_prefix(b"io.systemd.credential.binary:") {
            say_binary(&mut statement, &origin, word);
        } else {
            say(&mut statement, &origin, string);
        }
    }
    statement
}

/// The whole string is one word: a value may have spaces, and quotes are part of it.
fn say(statement: &mut Statement, origin: &Origin, string: &[u8]) {
    let (key, value) = split(string);
    if let Some(key) = key.strip_prefix(b"keelson.") {
        let key = String::from_utf8_lossy(key).replace('_', "-");
        statement.say_text(origin, &key, value);
    }
}

fn say_binary(statement: &mut Statement, origin: &Origin, string: &[u8]) {
    let (name, value) = split(string);
    let Some(key) = name.strip_prefix(b"keelson.") else { return };
    let key = String::from_utf8_lossy(key).replace('_', "-");
    match STANDARD.decode(value.unwrap_or_default()) {
        // A document stays in base64 here: that is the form in which the word carries it.
        Ok(_) if key == "document" => statement.say_text(origin, &key, value),
        Ok(bytes) => statement.say_text(origin, &key, Some(&bytes)),
        Err(_) => statement.errors.push(ConfigError::new(
            &Source::word(origin.clone()),
            format!("keelson.{key}"),
            "the credential's value is not base64",
            "base64",
        )),
    }
}

fn split(string: &[u8]) -> (&[u8], Option<&[u8]>) {
    match string.iter().position(|&byte| byte == b'=') {
        Some(at) => (string.get(..at).unwrap_or_default(), string.get(at + 1..)),
        None => (string, None),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table with a type 1 structure, then type 11 with `strings`, then the end.
    pub(crate) fn table(strings: &[&str]) -> Vec<u8> {
        let mut table = vec![1, 8, 0, 1, 1, 2, 0, 0];
        table.extend(b"QEMU\0Standard PC\0\0");
        table.extend([OEM_STRINGS, 5, 0, 2, u8::try_from(strings.len()).unwrap()]);
        for string in strings {
            table.extend(string.bytes());
            table.push(0);
        }
        table.extend(if strings.is_empty() { &[0, 0][..] } else { &[0][..] });
        table.extend([END_OF_TABLE, 4, 0, 3, 0, 0]);
        table
    }

    #[test]
    fn finds_the_strings() {
        assert_eq!(oem_strings(&table(&["a", "b=c"])), [&b"a"[..], b"b=c"]);
        assert_eq!(oem_strings(&table(&[])), Vec::<&[u8]>::new());
    }

    #[test]
    fn a_broken_table_ends_the_reading() {
        let whole = table(&["a", "b"]);
        for cut in 0..whole.len() {
            let found = oem_strings(&whole[..cut]);
            assert!(found.is_empty() || found == [&b"a"[..], b"b"], "{found:?} at {cut}");
        }
        assert_eq!(oem_strings(&[11, 0, 0, 0, 0, 0]), Vec::<&[u8]>::new());
    }

    #[test]
    fn reads_words_and_credentials_and_names_the_string() {
        let statement = from_table(&table(&[
            "vendor=1",
            "keelson.role=worker",
            "io.systemd.credential:keelson.name=node 1",
            "io.systemd.credential.binary:keelson.token=czNjcjN0",
            "keelson.operator_key=a2V5",
        ]));
        assert_eq!(statement.errors, []);
        let words = statement.words;
        assert_eq!(words.role.unwrap().source.to_string(), "SMBIOS type 11 string 2");
        assert_eq!(words.name.unwrap().value, "node 1");
        assert_eq!(words.token.unwrap().value.expose(), "s3cr3t");
        assert_eq!(words.operator_keys.unwrap().value[0].value.public_key, "a2V5");
    }
}
