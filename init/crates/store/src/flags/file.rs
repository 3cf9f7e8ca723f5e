//! etcd's configuration file: YAML, or JSON, which is YAML. Keys are flag names, but for TLS, which has two sections.

use serde_json::{Map, Value};

/// Sections and, in each, the file's key and the flag it stands for.
const SECTIONS: [(&str, &[(&str, &str)]); 2] = [
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
            ("names-member", "peer-cert-names-member"),
            ("hints-file", "peer-hints-file"),
        ],
    ),
];

/// Flag names and values, or what is wrong.
pub(super) fn parse(content: &str) -> Result<Vec<(String, String)>, String> {
    let object: Map<String, Value> = serde_saphyr::from_str(content).map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    for (key, value) in object {
        let section = SECTIONS.iter().find(|(name, _)| *name == key);
        match (section, value) {
            (_, Value::Null) => {}
            (Some((_, keys)), Value::Object(fields)) => section_values(&key, keys, fields, &mut said)?,
            (Some(_), _) => return Err(format!("{key} is a section of keys and values")),
            (None, value) => said.push((key.clone(), scalar(&key, value)?)),
        }
    }
    Ok(said)
}

fn section_values(
    section: &str,
    keys: &[(&str, &str)],
    fields: Map<String, Value>,
    said: &mut Vec<(String, String)>,
) -> Result<(), String> {
    for (key, value) in fields {
        let Some((_, flag)) = keys.iter().find(|(name, _)| *name == key) else {
            return Err(format!("{section} has no key {key}"));
        };
        if !value.is_null() {
            said.push(((*flag).to_owned(), scalar(&key, value)?));
        }
    }
    Ok(())
}

fn scalar(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        // etcd writes some lists so, and others as text with commas.
        Value::Array(values) => {
            let texts: Result<Vec<String>, String> = values.into_iter().map(|value| scalar(key, value)).collect();
            Ok(texts?.join(","))
        }
        Value::Null | Value::Object(_) => Err(format!("{key} takes one value")),
    }
}
