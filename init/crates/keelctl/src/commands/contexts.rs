//! `keelctl config`: contexts.

use std::fs;

use crate::{
    cli,
    config::Config,
    error::Error,
    output::{self, Table},
};

pub(super) fn run(mut config: Config, arguments: cli::Contexts) -> Result<(), Error> {
    match arguments {
        cli::Contexts::SetContext(set) => {
            config.set_context(&set.name, set.endpoint.as_deref(), set.fingerprint.as_deref(), set.key)?;
            config.write()?;
            output::line(&format!("context {} is set", set.name))
        }
        cli::Contexts::Use { name } => {
            config.use_context(&name)?;
            config.write()?;
            output::line(&format!("context {name} is the current one"))
        }
        cli::Contexts::Delete { name } => {
            config.delete_context(&name)?;
            config.write()?;
            // It may never have been used.
            let _ = fs::remove_file(config.certificate(&name));
            output::line(&format!("context {name} is deleted"))
        }
        cli::Contexts::List(format) => output::print(format, &config.contexts, || list(&config)),
    }
}

fn list(config: &Config) -> Table {
    let mut table = Table::new(["CURRENT", "NAME", "ENDPOINT", "FINGERPRINT", "KEY"]);
    for context in &config.contexts.contexts {
        let current = config.contexts.current_context.as_deref() == Some(context.name.as_str());
        table.row([
            if current { "*" } else { "" }.to_owned(),
            context.name.clone(),
            context.endpoint.to_string(),
            context.fingerprint.to_string(),
            context.key.display().to_string(),
        ]);
    }
    table
}
