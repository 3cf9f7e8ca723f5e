//! `keelctl config show`: what the node goes by.

use keelson_api::{Configuration, paths};
use serde_json::Value;

use crate::{
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

/// Certificates and lists are longer than a line; the other forms have them whole.
const VALUE_MAX: usize = 60;

pub(super) async fn run(mut session: Session, format: Format) -> Result<(), Error> {
    let configuration: Configuration = session.get(paths::CONFIGURATION).await?;
    output::print(format, &configuration, || {
        let mut table = Table::new(["FIELD", "VALUE", "SOURCE"]);
        for field in &configuration.fields {
            table.row([field.field.clone(), shortened(&field.value), field.source.clone()]);
        }
        table
    })
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
