//! The commands.

mod authorities;
mod boots;
mod certificates;
mod configuration;
mod contexts;
mod events;
mod features;
mod keys;
mod kubeconfig;
mod logs;
mod node;
mod nodes;
mod operators;
mod power;
mod proxy;
mod services;
mod status;
mod store;
mod tokens;

use clap::CommandFactory;
use serde_json::json;

use crate::{
    cli::{self, Arguments, Command, OutputFormat, Store, Token},
    config::Config,
    error::{Error, ExitStatus},
    output,
    session::Session,
};

pub(crate) fn run(arguments: Arguments) -> Result<ExitStatus, Error> {
    let Arguments { config, context, command } = arguments;
    let session = || Session::new(&Config::read(config.clone())?, context.as_deref());
    match command {
        Command::Status(arguments) => block_on(status::run(session()?, &arguments)),
        Command::Kubeconfig(arguments) => block_on(kubeconfig::run(session()?, &arguments)),
        Command::Nodes(format) => block_on(nodes::run(session()?, format)),
        Command::Authorities(arguments) => block_on(authorities::run(session()?, &arguments)),
        Command::Certificates(format) => block_on(certificates::run(session()?, format)),
        Command::Services(format) => block_on(services::run(session()?, format)),
        Command::Proxy(format) => block_on(proxy::run(session()?, format)),
        Command::Logs(arguments) => block_on(logs::run(session()?, &arguments)),
        Command::Reboot(arguments) => block_on(power::reboot(session()?, &arguments)),
        Command::Poweroff(arguments) => block_on(power::power_off(session()?, &arguments)),
        Command::Boots(arguments) => block_on(boots::run(session()?, &arguments)),
        Command::Node(arguments) => block_on(node::run(session()?, &arguments)),
        Command::Store(Store::Members(format)) => block_on(store::members(session()?, format)),
        Command::Token(Token::Create(arguments)) if arguments.offline => {
            tokens::create_offline(&Config::read(config)?, context.as_deref(), &arguments)
        }
        Command::Token(Token::Create(arguments)) => block_on(tokens::create(session()?, &arguments)),
        Command::Token(Token::List(format)) => block_on(tokens::list(session()?, format)),
        Command::Token(Token::Revoke { token }) => block_on(tokens::revoke(session()?, &token)),
        Command::Feature(arguments) => block_on(features::run(session()?, arguments)),
        Command::Events(arguments) => block_on(events::run(session()?, &arguments)),
        Command::Operator(arguments) => block_on(operators::run(session()?, arguments)),
        Command::Config(cli::Config::Show(arguments)) => block_on(configuration::show(session()?, &arguments)),
        Command::Config(cli::Config::Set(arguments)) => block_on(configuration::set(session()?, &arguments)),
        Command::Config(cli::Config::Unset(arguments)) => block_on(configuration::unset(session()?, &arguments)),
        Command::Config(cli::Config::Apply(arguments)) => block_on(configuration::apply(session()?, &arguments)),
        Command::Config(cli::Config::Contexts(arguments)) => contexts::run(Config::read(config)?, arguments),
        Command::Key(arguments) => keys::run(&arguments),
        Command::Version(format) => version(format.output, format),
        Command::Completion { shell } => completion(shell),
    }?;
    Ok(ExitStatus::Success)
}

fn block_on(future: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?.block_on(future)
}

fn version(output: OutputFormat, format: cli::Format) -> Result<(), Error> {
    let version = env!("CARGO_PKG_VERSION");
    match output {
        OutputFormat::Table => output::line(&format!("keelctl {version} (API {})", keelson_api::VERSION)),
        _ => output::structured(format, &json!({ "keelctl": version, "api": keelson_api::VERSION })),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keelctl", &mut script);
    output::bytes(&script)
}
