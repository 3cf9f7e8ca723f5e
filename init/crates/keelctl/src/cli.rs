//! The arguments.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use clap_complete::Shell;
use keelson_api::{
    logs::{LINES_DEFAULT, LINES_MAX},
    validation::{NODE_NAME_FORM, is_feature_name, is_node_name, is_operator_name},
};

use crate::{age, error::EXIT_CODES, spec};

/// Operates Keelson nodes
#[derive(Debug, Parser)]
#[command(name = "keelctl", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// The configuration file [default: ~/.config/keelson/keelctl.yaml]
    #[arg(long, global = true, env = "KEELCTL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the node's state, and why it is not ready
    Status(Status),
    /// Writes a kubeconfig with a client certificate for 24 hours
    Kubeconfig(Kubeconfig),
    /// Lists the cluster's nodes
    Nodes(Format),
    /// Lists the node's certificates: whom each names, when it ends and when it is renewed; -o json tells the files
    Certificates(Format),
    /// Exchanges what the cluster's certificates are signed by
    #[command(subcommand)]
    Authorities(Authorities),
    /// Lists the services on the node
    Services(Format),
    /// Lists the API servers that the node's proxy knows, and how they are
    Proxy(Format),
    /// Prints a service's log; `kernel` is the kernel's and the init's
    Logs(Logs),
    /// Reboots the node in order
    Reboot(Power),
    /// Switches the node off in order
    #[command(visible_alias = "power-off")]
    Poweroff(Power),
    /// Lists the node's boots and how they ended, or shows all that the node knows of one
    Boots(Boots),
    /// Cordons, drains and removes nodes
    #[command(subcommand)]
    Node(Node),
    /// Shows the store that the control planes make up
    #[command(subcommand)]
    Store(Store),
    /// Makes, lists and revokes the tokens that nodes join with
    #[command(subcommand)]
    Token(Token),
    /// Lists, enables, disables and sets what the cluster has beside its components
    #[command(subcommand)]
    Feature(Feature),
    /// Tells what happened to the cluster: the newest thousand events, the oldest first
    Events(Events),
    /// Lists, adds and removes operators: whose keys obtain certificates
    #[command(subcommand)]
    Operator(Operator),
    /// Shows what the node goes by, and changes what all nodes or one of them go by; manages contexts: which node, known by
    /// which fingerprint, with which key
    #[command(subcommand)]
    Config(Config),
    /// Makes and shows operator keys
    #[command(subcommand)]
    Key(Key),
    /// Prints the version of keelctl
    Version(Format),
    /// Prints a script that completes keelctl's arguments
    Completion { shell: Shell },
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum OutputFormat {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Format {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    pub format: Format,
    /// Wait until the node is ready, telling what is awaited
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, such as 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, requires = "wait")]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Kubeconfig {
    /// The address of Kubernetes' API server as this machine reaches it [default: the node's own]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// The file to write, with mode 0600 [default: standard output]
    #[arg(short = 'f', long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// The service's name, as `keelctl services` lists it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub service: String,
    /// Go on with lines as they come, also after the connection broke or the node has rebooted
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the newest lines
    #[arg(short = 'n', long, default_value_t = LINES_DEFAULT, value_parser = clap::value_parser!(u32).range(0..=i64::from(LINES_MAX)))]
    pub lines: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Power {
    /// Why, for the history of boots
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Wait: after a reboot until the node answers again, after a power-off until it no longer does
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, requires = "wait")]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Boots {
    /// Show this boot, by its number in the list: how it began and ended, its phases, and the kernel's last messages
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub number: Option<u64>,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Authorities {
    /// Exchanges the authorities, all certificates and the key of Secrets for new ones while the cluster runs; join tokens become
    /// void, and each node has to be there once or be removed
    Rotate {
        /// Wait until it is over, telling what is awaited
        #[arg(long)]
        wait: bool,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration, requires = "wait")]
        timeout: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Keeps new pods away from a node
    Cordon {
        #[arg(value_parser = node_name)]
        name: String,
    },
    /// Lets pods onto a node again
    Uncordon {
        #[arg(value_parser = node_name)]
        name: String,
    },
    /// Cordons a node and waits until its pods are gone; those of daemon sets stay
    Drain(Drain),
    /// Drains a node and removes it for good: its identity is denied, its Node and Pods are deleted
    Remove(Remove),
}

#[derive(Args, Debug)]
pub(crate) struct Drain {
    #[arg(value_parser = node_name)]
    pub name: String,
    /// How long to wait for the pods
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub drain: Drain,
    /// Do not drain: for a node that is gone. Of control planes, if those that stay and answer are too few to decide
    /// anything, those that do not answer are removed with it
    #[arg(long)]
    pub force: bool,
    /// Somebody else may have what the node knew: it goes at once, all join tokens become void, but for those that were made offline
    /// and never used (revoke those by their ids), and if it is a control plane the cluster's authorities and the key of its Secrets
    /// are exchanged (keelctl status says how far that is)
    #[arg(long)]
    pub compromised: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Lists its members: which of them leads, which vote, and which still learn
    Members(Format),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token and prints it: one line, for keelson.token
    Create(CreateToken),
    /// Lists tokens, without their secrets
    #[command(visible_alias = "ls")]
    List(Format),
    /// Revokes a token, also one that was made offline; takes its id or the whole line
    Revoke { token: String },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Role {
    ControlPlane,
    Worker,
}

#[derive(Args, Debug)]
pub(crate) struct CreateToken {
    /// What the node becomes
    #[arg(long, value_enum)]
    pub role: Role,
    /// For how long, such as 1h or 30d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// How many nodes may join with it
    #[arg(long, default_value_t = 1)]
    pub uses: u32,
    /// The only name that a node may join under; a worker that has the name is replaced
    #[arg(long)]
    pub name: Option<String>,
    /// The SMBIOS uuid of the only machine that may use it; a worker of that machine may come back with it
    #[arg(long, value_name = "UUID")]
    pub hardware: Option<String>,
    /// Where the node is to ask, ADDRESS:6400; can be given several times [default: all control planes]
    #[arg(long = "endpoint", value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// Sign the token with the context's key and ask nobody; needs --cluster, and --endpoint unless the context's will do
    #[arg(long, requires = "cluster")]
    pub offline: bool,
    /// The cluster's id, as keelctl status shows it
    #[arg(long, value_name = "ID", requires = "offline")]
    pub cluster: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Feature {
    /// Lists features: how they stand, and why; -o json tells what settings there are
    #[command(visible_alias = "ls")]
    List(Format),
    /// Enables a feature
    Enable(SwitchFeature),
    /// Disables a feature: what it is made of is removed. Without the network, pods need another CNI plugin
    Disable(SwitchFeature),
    /// Changes settings of a feature; a setting without a value is the default again
    Set(SetFeature),
}

#[derive(Args, Debug)]
pub(crate) struct SwitchFeature {
    #[arg(value_parser = feature_name)]
    pub name: String,
    #[command(flatten)]
    pub settling: Settling,
}

#[derive(Args, Debug)]
pub(crate) struct SetFeature {
    #[arg(value_parser = feature_name)]
    pub name: String,
    /// Such as `replicas=3` or `upstream=192.0.2.53,192.0.2.54`
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    #[command(flatten)]
    pub settling: Settling,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Settling {
    /// Wait until the feature is as it is wanted, telling what is awaited. The network is waited for at the control plane that answers:
    /// the other nodes follow within seconds. DNS is waited for until it is told: it takes up another upstream within two minutes
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Go on with events as they happen
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operator {
    /// Lists operators and their keys
    #[command(visible_alias = "ls")]
    List(Format),
    /// Lets the holder of a key obtain certificates in that name
    Add {
        #[arg(value_parser = operator_name)]
        name: String,
        /// The public key, as `keelctl key show` prints it
        key: String,
    },
    /// Removes an operator with all keys, or one key by its id; no configuration of a node brings it back
    Remove {
        #[arg(value_parser = operator_name)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Shows what the node goes by, field by field, and who said it; secrets are not shown
    Show(ShowConfig),
    /// Sets fields for all nodes of the cluster, or for one
    Set(SetConfig),
    /// Says nothing of fields any more: each machine's own sources decide them again
    Unset(UnsetConfig),
    /// Replaces all that is said for all nodes of the cluster, or for one
    Apply(ApplyConfig),
    #[command(flatten)]
    Contexts(Contexts),
}

#[derive(Args, Debug)]
pub(crate) struct ShowConfig {
    /// Show what operators have said for all nodes instead; -o yaml prints the document that apply takes
    #[arg(long, conflicts_with = "node")]
    pub cluster: bool,
    /// Show what operators have said for one node instead
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct SetConfig {
    /// A field of the document and its value in YAML, such as `cluster.extraSANs=[api.example.org]` or `node.labels.rack=r7`
    #[arg(required = true, value_name = "FIELD=VALUE", value_parser = spec::assignment)]
    pub fields: Vec<(spec::Field, serde_json::Value)>,
    /// Only for this node
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct UnsetConfig {
    /// A field of the document, such as `timeServers` or `node.labels.rack`
    #[arg(required = true, value_name = "FIELD", value_parser = spec::field)]
    pub fields: Vec<spec::Field>,
    /// Only for this node
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyConfig {
    /// The document, as a node boots with: apiVersion, kind, spec
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: PathBuf,
    /// Only for this node
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Contexts {
    /// Makes a context, or changes one; the first becomes the current one
    #[command(visible_alias = "add")]
    SetContext(SetContext),
    /// Chooses the current context
    #[command(visible_alias = "use-context")]
    Use { name: String },
    /// Lists the contexts
    #[command(visible_alias = "get-contexts")]
    List(Format),
    /// Forgets a context and its cached certificate; the key stays
    #[command(visible_alias = "delete-context")]
    Delete { name: String },
}

#[derive(Args, Debug)]
pub(crate) struct SetContext {
    pub name: String,
    /// Where the node's API answers, such as <https://192.0.2.10:6400>
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The fingerprint that the node's console shows
    #[arg(long, value_name = "sha256:HEX")]
    pub fingerprint: Option<String>,
    /// The operator's private key, made by `keelctl key generate`
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Makes a key in FILE and prints the word that makes a node accept it
    Generate { file: PathBuf },
    /// Prints that word again
    Show { file: PathBuf },
}

/// Names go into paths, where a name that nobody can have would be another path.
fn node_name(text: &str) -> Result<String, String> {
    named(text, is_node_name, NODE_NAME_FORM)
}

fn operator_name(text: &str) -> Result<String, String> {
    named(text, is_operator_name, "a name has letters, digits, '-', '_', '.' and '@', at most 63")
}

fn feature_name(text: &str) -> Result<String, String> {
    named(text, is_feature_name, "a name has lower-case letters, digits and hyphens, at most 63")
}

fn named(text: &str, is_name: fn(&str) -> bool, form: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(form.to_owned()) }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    age::parse(text).ok_or_else(|| format!("{text:?} is not a duration such as 90s, 10m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_called_as_nodes_let_them_be_called() {
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        for name in ["ann", "a_b@c.example", "0123456789abcdef", "", "a b", "ann?x", "a/b", "\u{e4}", &longest, &longer]
        {
            assert_eq!(operator_name(name).is_ok(), keelson_config::OperatorKey::is_name(name), "{name:?}");
        }
    }
}
