//! `keelctl config show`, `set`, `unset` and `apply`: what a node goes by, and what operators say for all nodes or for one.
//!
//! A change is made from what was read a moment before, and names its revision: one that somebody else has made meanwhile
//! is not undone unseen.

use keelson_api::{
    Configuration, ConfigurationField, ScopeConfiguration, ScopeConfigurationChange, ScopeConfigurationRequest, paths,
};
use serde_json::{Map, Value, json};

use crate::{
    cli::{ApplyConfig, Format, OutputFormat, SetConfig, ShowConfig, UnsetConfig},
    error::Error,
    output::{self, Table},
    session::Session,
    spec,
};

/// Certificates and lists are longer than a line; the other forms have them whole.
const VALUE_MAX: usize = 60;
/// More than a node takes.
const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024;

pub(super) async fn show(mut session: Session, arguments: &ShowConfig) -> Result<(), Error> {
    if arguments.cluster || arguments.node.is_some() {
        return show_scope(&mut session, arguments.node.as_deref(), arguments.format).await;
    }
    let configuration: Configuration = session.get(paths::CONFIGURATION).await?;
    output::print(arguments.format, &configuration, || {
        let mut table = Table::new(["FIELD", "VALUE", "SOURCE", "FROM THE NEXT BOOT ON"]);
        for field in &configuration.fields {
            table.row([field.field.clone(), shortened(&field.value), field.source.clone(), next(field)]);
        }
        table
    })
}

fn next(field: &ConfigurationField) -> String {
    field.next.as_ref().map(|next| format!("{} ({})", shortened(&next.value), next.source)).unwrap_or_default()
}

/// As JSON or YAML it is the document that `apply` takes.
async fn show_scope(session: &mut Session, node: Option<&str>, format: Format) -> Result<(), Error> {
    let scope: ScopeConfiguration = session.get(&path(node)).await?;
    if format.output != OutputFormat::Table {
        return output::structured(format, &document(&scope.spec));
    }
    let mut table = Table::new(["FIELD", "VALUE"]);
    for (field, value) in spec::fields(&scope.spec) {
        table.row([format!("spec.{field}"), shortened(value)]);
    }
    output::table(&table)
}

pub(super) async fn apply(mut session: Session, arguments: &ApplyConfig) -> Result<(), Error> {
    let failed = |source| Error::Document { path: arguments.file.clone(), source };
    let size = std::fs::metadata(&arguments.file).map_err(failed)?.len();
    if size > DOCUMENT_BYTES_MAX {
        return Err(failed(std::io::Error::other("it is too large for a document")));
    }
    let text = std::fs::read_to_string(&arguments.file).map_err(failed)?;
    let document: Value = serde_saphyr::from_str(&text)
        .map_err(|error| failed(std::io::Error::other(error.without_snippet().to_string())))?;
    let node = arguments.node.as_deref();
    let present: ScopeConfiguration = session.get(&path(node)).await?;
    put(&mut session, node, present.revision, document).await
}

pub(super) async fn set(mut session: Session, arguments: &SetConfig) -> Result<(), Error> {
    edit(&mut session, arguments.node.as_deref(), |spec| {
        for (field, value) in &arguments.fields {
            spec::set(spec, field, value.clone());
        }
    })
    .await
}

pub(super) async fn unset(mut session: Session, arguments: &UnsetConfig) -> Result<(), Error> {
    edit(&mut session, arguments.node.as_deref(), |spec| {
        for field in &arguments.fields {
            spec::unset(spec, field);
        }
    })
    .await
}

async fn edit(
    session: &mut Session,
    node: Option<&str>,
    change: impl FnOnce(&mut Map<String, Value>),
) -> Result<(), Error> {
    let present: ScopeConfiguration = session.get(&path(node)).await?;
    let mut spec = match present.spec {
        Value::Object(spec) => spec,
        _ => Map::new(),
    };
    change(&mut spec);
    put(session, node, present.revision, document(&Value::Object(spec))).await
}

fn path(node: Option<&str>) -> String {
    node.map_or_else(|| paths::CLUSTER_CONFIGURATION.to_owned(), |name| paths::node(paths::NODE_CONFIGURATION, name))
}

fn document(spec: &Value) -> Value {
    json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration", "spec": spec })
}

async fn put(session: &mut Session, node: Option<&str>, revision: i64, document: Value) -> Result<(), Error> {
    let request = ScopeConfigurationRequest { revision, document };
    let done: ScopeConfigurationChange = session.put(&path(node), &request).await?;
    let whose = node.map_or_else(|| "the cluster's settings".to_owned(), |name| format!("the settings of {name}"));
    if done.changed.is_empty() {
        return output::line(&output::clean(&format!("{whose} are so already: nothing was changed")));
    }
    output::line(&output::clean(&format!("{whose} were changed: {}", done.changed.join(", "))))?;
    if done.waiting.is_empty() {
        return Ok(());
    }
    let when = node.map_or_else(|| "each node's next boot".to_owned(), |name| format!("the next boot of {name}"));
    output::line(&output::clean(&format!("with {when} only: {}", done.waiting.join(", "))))
}

fn shortened(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    };
    if text.chars().count() <= VALUE_MAX {
        return text;
    }
    let mut text: String = text.chars().take(VALUE_MAX - 1).collect();
    text.push('…');
    text
}
