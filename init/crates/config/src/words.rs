//! The one table of what a `key=value` word can say, whichever source it comes from.
//!
//! Within one source a list may be said in several words, which add up; anything else said twice with different
//! values is a fault, because guessing which was meant is how a node comes up in the wrong role.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::command_line::{self, Word};
use crate::document;
use crate::error::ConfigError;
use crate::ip_argument;
use crate::raw::{RawConfig, RawOperatorKey, Said};
use crate::secret::Secret;
use crate::source::{Origin, Source};

/// The keys, for the message about one that is none of them.
const KEYS: &str =
    "role, name, token, bootstrap, peers, operator-key, state, ntp, document, ip, nameserver, vlan, bond, rd.route";

/// What one source said: its words, the documents it carried, and what was wrong with either.
#[derive(Debug, Default)]
pub struct Statement {
    pub words: RawConfig,
    pub documents: Vec<RawConfig>,
    pub errors: Vec<ConfigError>,
}

/// The kernel's command line as read from `/proc/cmdline`.
pub fn from_command_line(line: &[u8]) -> Statement {
    let mut statement = Statement::default();
    for word in command_line::words(line) {
        statement.say(&Origin::CommandLine, &word);
    }
    statement
}

/// Files on the EFI system partition, by their path there: `keelson/document.yaml` is a document, `keelson/words` holds words as
/// on the command line, any other file in that folder is the value of the key that it is called after. A credential, where
/// systemd's boot loader expects those (`loader/credentials/keelson.role.cred`), says the same as the file of its name. File
/// names of FAT know no case.
pub fn from_esp(files: &BTreeMap<String, Vec<u8>>) -> Statement {
    let mut statement = Statement::default();
    for (path, content) in files {
        let lower = path.to_ascii_lowercase();
        let credential = lower.strip_prefix("loader/credentials/keelson.").and_then(|name| name.strip_suffix(".cred"));
        let Some(key) = lower.strip_prefix("keelson/").or(credential) else { continue };
        let origin = Origin::Esp(path.clone());
        if credential.is_some() && is_encrypted(content) {
            let problem = "it is an encrypted credential, and this release has no key for one";
            statement.fault(&Source::word(origin), key, problem, "the value itself, not encrypted");
            continue;
        }
        match key {
            "document.yaml" | "document" => statement.read_document(&origin, content),
            "words" => {
                for word in command_line::words(content) {
                    statement.say(&origin, &word);
                }
            }
            key => statement.say_text(&origin, key, Some(content.trim_ascii_end())),
        }
    }
    statement
}

/// Whether these are the bytes that systemd-creds(1) writes: base64 of a header of a 16-byte identity, and the sizes of key,
/// block, initialisation vector and tag, which all its forms of AES-256-GCM share.
fn is_encrypted(content: &[u8]) -> bool {
    const SIZES: [u32; 4] = [32, 1, 12, 16];
    let packed: Vec<u8> = content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    // As much as holds the header: 32 bytes are 43 characters, and a group of four is decoded whole.
    let decoded = packed.get(..44).and_then(|start| STANDARD.decode(start).ok()).unwrap_or_default();
    let sizes = decoded.get(16..32).unwrap_or_default();
    sizes.chunks_exact(4).map(<[u8]>::to_vec).eq(SIZES.map(|size| size.to_le_bytes().to_vec()))
}

/// QEMU's `fw_cfg` items by their full name, `opt/keelson/role` and the like. Items of others are left alone.
pub fn from_fw_cfg(items: &BTreeMap<String, Vec<u8>>) -> Statement {
    let mut statement = Statement::default();
    for (name, value) in items {
        let Some(key) = name.strip_prefix("opt/keelson/") else { continue };
        let origin = Origin::FwCfg(name.clone());
        if key == "document" {
            statement.read_document(&origin, value);
        } else {
            let value = value.trim_ascii_end();
            let value = value.strip_suffix(b"\0").unwrap_or(value);
            statement.say_text(&origin, key, Some(value));
        }
    }
    statement
}

impl Statement {
    /// Takes a word of a command line, or of a source that uses its form.
    pub(crate) fn say(&mut self, origin: &Origin, word: &Word<'_>) {
        if let Some(key) = our_key(word.key) {
            self.say_text(origin, &key, word.value);
        }
    }

    pub(crate) fn say_text(&mut self, origin: &Origin, key: &str, value: Option<&[u8]>) {
        let source = Source::word(origin.clone());
        // The bytes of a faulty token must not reach a message.
        match value.map(std::str::from_utf8).transpose() {
            Ok(value) => self.say_value(&source, key, value),
            Err(_) => self.fault(&source, key, "the value is not UTF-8", "UTF-8 text"),
        }
    }

    fn say_value(&mut self, source: &Source, key: &str, value: Option<&str>) {
        if key == "bootstrap" {
            return self.say_bootstrap(source, value.unwrap_or("true"));
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return self.fault(source, key, "it has no value", &format!("{}=VALUE", spelling(key)));
        };
        match key {
            "role" => once(&mut self.errors, &mut self.words.role, source, key, value.to_owned()),
            "name" => once(&mut self.errors, &mut self.words.name, source, key, value.to_owned()),
            "state" => once(&mut self.errors, &mut self.words.state, source, key, value.to_owned()),
            "token" => once(&mut self.errors, &mut self.words.token, source, key, Secret::new(value)),
            "peers" => append(&mut self.words.peers, source, commas(value)),
            "ntp" => append(&mut self.words.ntp, source, commas(value)),
            "nameserver" => append(&mut self.words.nameservers, source, commas(value)),
            "operator-key" => {
                let key = match value.split_once(':') {
                    Some((name, key)) => RawOperatorKey { name: Some(name.to_owned()), public_key: key.to_owned() },
                    None => RawOperatorKey { name: None, public_key: value.to_owned() },
                };
                append(&mut self.words.operator_keys, source, vec![Said::new(key, source.clone())]);
            }
            "ip" => match ip_argument::ip(value) {
                Ok(link) => append(&mut self.words.links, source, vec![Said::new(link, source.clone())]),
                Err((problem, allowed)) => self.fault(source, key, problem, allowed),
            },
            "vlan" => match ip_argument::vlan(value) {
                Ok(vlan) => append(&mut self.words.vlans, source, vec![Said::new(vlan, source.clone())]),
                Err((problem, allowed)) => self.fault(source, key, problem, allowed),
            },
            "bond" => match ip_argument::bond(value) {
                Ok(bond) => append(&mut self.words.bonds, source, vec![Said::new(bond, source.clone())]),
                Err((problem, allowed)) => self.fault(source, key, problem, allowed),
            },
            "rd.route" => match ip_argument::route(value) {
                Ok(route) => append(&mut self.words.routes, source, vec![Said::new(route, source.clone())]),
                Err((problem, allowed)) => self.fault(source, key, problem, allowed),
            },
            "document" => self.say_document(source, value),
            "config" => self.fault(source, key, "this version reads no document from a URL", "document=BASE64"),
            _ => self.fault(source, key, "there is no such setting", KEYS),
        }
    }

    fn say_bootstrap(&mut self, source: &Source, value: &str) {
        let value = if value.is_empty() { "true" } else { value };
        once(&mut self.errors, &mut self.words.bootstrap, source, "bootstrap", value.to_owned());
    }

    fn say_document(&mut self, source: &Source, value: &str) {
        match STANDARD.decode(value) {
            Ok(bytes) => self.read_document(&source.origin, &bytes),
            Err(_) => self.fault(source, "document", "the value is not base64", "base64 of the YAML document"),
        }
    }

    fn read_document(&mut self, origin: &Origin, bytes: &[u8]) {
        let (raw, errors) = document::parse(bytes, origin);
        self.documents.push(raw);
        self.errors.extend(errors);
    }

    fn fault(&mut self, source: &Source, key: &str, problem: impl Into<String>, allowed: &str) {
        self.errors.push(ConfigError::new(source, spelling(key), problem, allowed));
    }
}

/// A key as it is looked up: `-` for `_`, without the prefix `keelson.`. `None` for a key that is not ours.
fn our_key(key: &[u8]) -> Option<String> {
    let key = String::from_utf8_lossy(key).replace('_', "-");
    if let Some(rest) = key.strip_prefix("keelson.") {
        return Some(rest.to_owned());
    }
    is_without_prefix(&key).then_some(key)
}

/// The key as one writes it on a command line.
pub(crate) fn spelling(key: &str) -> String {
    if is_without_prefix(key) { key.to_owned() } else { format!("keelson.{key}") }
}

/// The kernel's words and dracut's.
fn is_without_prefix(key: &str) -> bool {
    matches!(key, "ip" | "nameserver" | "vlan" | "bond" | "rd.route")
}

fn commas(value: &str) -> Vec<String> {
    value.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn append<T>(field: &mut Option<Said<Vec<T>>>, source: &Source, values: Vec<T>) {
    match field {
        Some(said) => said.value.extend(values),
        None => *field = Some(Said::new(values, source.clone())),
    }
}

fn once<T: PartialEq>(
    errors: &mut Vec<ConfigError>,
    field: &mut Option<Said<T>>,
    source: &Source,
    key: &str,
    value: T,
) {
    match field {
        None => *field = Some(Said::new(value, source.clone())),
        Some(said) if said.value == value => {}
        Some(said) => {
            let problem = format!("it was said before, and differently, by {}", said.source);
            errors.push(ConfigError::new(source, spelling(key), problem, "one value"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_error(line: &str) -> String {
        let statement = from_command_line(line.as_bytes());
        assert_eq!(statement.errors.len(), 1, "{:?}", statement.errors);
        statement.errors[0].to_string()
    }

    #[test]
    fn reads_the_command_line_and_leaves_foreign_words_alone() {
        let statement = from_command_line(
            b"console=ttyS0 panic=10 keelson.role=control-plane keelson.bootstrap keelson.peers=none \
              keelson.ntp=a,b keelson.ntp=c root=/dev/x",
        );
        assert_eq!(statement.errors, []);
        let words = statement.words;
        assert_eq!(words.role.unwrap().value, "control-plane");
        assert_eq!(words.bootstrap.unwrap().value, "true");
        assert_eq!(words.peers.unwrap().value, ["none"]);
        assert_eq!(words.ntp.unwrap().value, ["a", "b", "c"]);
    }

    #[test]
    fn keys_are_ours_with_dashes_or_underscores() {
        assert_eq!(our_key(b"keelson.operator_key").as_deref(), Some("operator-key"));
        assert_eq!(our_key(b"ip").as_deref(), Some("ip"));
        assert_eq!(our_key(b"root"), None);
    }

    #[test]
    fn names_source_and_field_of_each_fault() {
        assert_eq!(
            only_error("keelson.rôle=worker"),
            format!("kernel command line, keelson.rôle: there is no such setting; allowed: {KEYS}")
        );
        assert_eq!(
            only_error("keelson.role=worker keelson.role=control-plane"),
            "kernel command line, keelson.role: it was said before, and differently, by kernel command line; \
             allowed: one value"
        );
        assert!(only_error("ip=1.2.3.4").starts_with("kernel command line, ip: \"1.2.3.4\" is not a method"));
        assert!(only_error("keelson.role=").contains("it has no value"));
        assert!(only_error("keelson.document=%%").contains("not base64"));
    }

    #[test]
    fn no_message_shows_a_token() {
        for line in [
            &b"keelson.token=s3cr3t keelson.token=s3cr3t2"[..],
            b"keelson.token=s3cr3t\xff",
            b"keelson.token=s3cr3t keelson.tokn",
        ] {
            let statement = from_command_line(line);
            assert!(!statement.errors.is_empty());
            assert!(!format!("{statement:?} {:?}", statement.errors).contains("s3cr3t"), "{statement:?}");
        }
    }

    #[test]
    fn reads_fw_cfg_items() {
        let items = [("opt/keelson/role", "worker\n"), ("opt/keelson/bootstrap", ""), ("opt/other", "x")]
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        let statement = from_fw_cfg(&items.into());
        assert_eq!(statement.errors, []);
        let role = statement.words.role.unwrap();
        assert_eq!((role.value.as_str(), role.source.to_string().as_str()), ("worker", "fw_cfg opt/keelson/role"));
    }

    #[test]
    fn reads_files_of_the_efi_system_partition() {
        let files = [
            ("keelson/role".to_owned(), b"worker\r\n".to_vec()),
            ("KEELSON/WORDS".to_owned(), b"keelson.name=w3 quiet\n".to_vec()),
            (
                "keelson/document.yaml".to_owned(),
                b"apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec: {}\n".to_vec(),
            ),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), b"MZ".to_vec()),
        ];
        let statement = from_esp(&files.into());
        assert_eq!(statement.errors, []);
        let role = statement.words.role.unwrap();
        assert_eq!(role.value, "worker");
        assert_eq!(role.source.to_string(), "EFI system partition, keelson/role");
        assert_eq!(statement.words.name.unwrap().value, "w3");
        assert_eq!(statement.documents.len(), 1);
    }

    #[test]
    fn credentials_are_read_plain_and_refused_encrypted() {
        let header = [&[7; 16][..], &[32, 0, 0, 0, 1, 0, 0, 0, 12, 0, 0, 0, 16, 0, 0, 0], &[9; 40]].concat();
        let mut encrypted = STANDARD.encode(header).into_bytes();
        encrypted.insert(30, b'\n');
        let files = [
            ("loader/credentials/keelson.role.cred".to_owned(), b"worker\n".to_vec()),
            ("loader/credentials/other.cred".to_owned(), b"x".to_vec()),
            ("loader/credentials/keelson.token.cred".to_owned(), encrypted),
        ];
        let statement = from_esp(&files.into());
        let role = statement.words.role.unwrap();
        assert_eq!(role.source.to_string(), "EFI system partition, loader/credentials/keelson.role.cred");
        assert!(statement.words.token.is_none());
        let said: Vec<String> = statement.errors.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("keelson.token.cred") && said[0].contains("encrypted credential"), "{said:?}");
        assert!(!is_encrypted(b"worker") && !is_encrypted(&[b'A'; 100]));
    }
}
