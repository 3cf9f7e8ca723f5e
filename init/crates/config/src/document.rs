//! The document: YAML with `apiVersion` and `kind`, unknown fields refused, every fault reported with its path.
//!
//! It is read in two steps. The YAML becomes a plain tree, under a budget of size, depth and aliases; the tree then
//! becomes the types of [`spec`], from which the JSON Schema is generated. Where the second step finds a fault, the
//! faulty node is noted and cut off, and the step is repeated: so all faults are found, with serde telling only the
//! first. (Nothing in the types is required, so cutting makes no new fault.)
//!
//! A document may hold secrets, and a misplaced line can make a secret the value of any field. Messages therefore
//! never show values, only field names.

use serde_json::Value;

use crate::error::ConfigError;
use crate::raw::RawConfig;
use crate::source::{Origin, Source};

mod convert;
mod lenient;
pub mod spec;

pub const API_VERSION: &str = "keelson.dev/v1alpha1";
pub const KIND: &str = "NodeConfiguration";

/// Room for a few certificates and long lists; a document that is larger is a mistake or an attack.
const SIZE_MAX: usize = 256 * 1024;
/// The deepest field stands at 6.
const DEPTH_MAX: usize = 32;
/// Past this many the reader has enough to correct, and the document is likely of another kind.
const ERRORS_MAX: usize = 32;
/// A name longer than our longest field's is not shown: it may be a secret that lost its place.
const SHOWN_NAME_MAX: usize = 32;

/// Reads one document that came from `origin`. What could be read is returned beside the faults.
pub fn parse(bytes: &[u8], origin: &Origin) -> (RawConfig, Vec<ConfigError>) {
    match tree(bytes) {
        Ok(tree) => read(tree, origin),
        Err(problem) => {
            let whole = Source::document(origin.clone(), "");
            (RawConfig::default(), vec![ConfigError::new(&whole, "document", problem, "a YAML document")])
        }
    }
}

/// The same of a document that is a tree already.
pub fn read(tree: Value, origin: &Origin) -> (RawConfig, Vec<ConfigError>) {
    let (document, mut errors) = shape(tree, origin);
    for (field, said, right) in [("apiVersion", &document.api_version, API_VERSION), ("kind", &document.kind, KIND)] {
        if said.as_deref() != Some(right) {
            let problem = if said.is_some() { "it is another" } else { "it is missing" };
            errors.push(ConfigError::new(&Source::document(origin.clone(), field), field, problem, right));
        }
    }
    (convert::raw(document.spec, origin), errors)
}

fn tree(bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() > SIZE_MAX {
        return Err(format!("it has {} bytes; the limit is {SIZE_MAX}", bytes.len()));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8 at byte {}", error.valid_up_to()))?;
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
        format!("it is not YAML{}: {}", place.unwrap_or_default(), syntax_problem(error))
    })
}

/// What the parser says may quote the document, so only what cannot is passed on.
fn syntax_problem(error: &serde_saphyr::Error) -> &'static str {
    use serde_saphyr::Error as E;
    match error {
        E::DuplicateMappingKey { .. } => "a field is given twice",
        E::MultipleDocuments { .. } => "there is a second document",
        E::Budget { .. } | E::AliasReplayLimitExceeded { .. } | E::AliasExpansionLimitExceeded { .. } => {
            "it is nested or repeated beyond all measure"
        }
        E::UnknownAnchor { .. } => "an alias has no anchor",
        E::Eof { .. } => "it ends too early",
        _ => "the syntax is wrong here",
    }
}

/// Turns the tree into the document's types, noting and cutting off whatever does not fit.
fn shape(mut tree: Value, origin: &Origin) -> (spec::Document, Vec<ConfigError>) {
    let mut errors = Vec::new();
    while errors.len() < ERRORS_MAX {
        let error = match serde_path_to_error::deserialize::<_, spec::Document>(&tree) {
            Ok(document) => return (document, errors),
            Err(error) => error,
        };
        let path = error.path().clone();
        let message = error.inner().to_string();
        let fault = Fault::of(&path, &message);
        let source = Source::document(origin.clone(), fault.shown.clone());
        errors.push(ConfigError::new(&source, fault.shown, fault.problem, fault.allowed));
        if !lenient::cut(&mut tree, &path, fault.unknown.as_deref()) {
            break;
        }
    }
    (spec::Document::default(), errors)
}

struct Fault {
    /// The path as a person writes it.
    shown: String,
    /// The field below the path that does not exist.
    unknown: Option<String>,
    problem: String,
    allowed: String,
}

impl Fault {
    fn of(path: &serde_path_to_error::Path, message: &str) -> Self {
        let parent = lenient::shown(path);
        if let Some((unknown, allowed)) = lenient::unknown_field(message) {
            let plain = unknown.len() <= SHOWN_NAME_MAX && unknown.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let name = if plain { unknown.as_str() } else { "(a name that is not shown)" };
            let parent = lenient::parent_of_unknown(&parent, &unknown);
            let shown = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
            return Self { shown, unknown: Some(unknown), problem: "there is no such field".to_owned(), allowed };
        }
        let (problem, allowed) = lenient::type_fault(message);
        Self { shown: parent, unknown: None, problem, allowed }
    }
}

/// The JSON Schema of the document, as committed in `schema/`.
pub fn schema() -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(spec::Document))?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests;
