//! Reading the sources that say what a node is to be. The parsers themselves are keelson-config's and touch nothing; this is
//! the I/O before them. In between this process gives up every right that it has ([`service::confine_parser`]): what strangers' bytes could
//! make of a parser can then open, mount and kill nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use keelson_config::scopes::overlay;
use keelson_config::{
    ConfigErrors, Inputs, Kept as _, KeptError, NodeConfig, Remembered, SCOPES_PATH, Scopes, resolve, state_selection,
};
use keelson_job::{Configuration, Selection};
use thiserror::Error;

use crate::jobs::chain;
use crate::service::{self, SetUpError};

mod esp;

const DMI_TABLE: &str = "/sys/firmware/dmi/tables/DMI";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name";
/// Ours, below [`FW_CFG`]; item names begin with it.
const FW_CFG_ITEMS: &str = "opt/keelson";
/// More than any document that the command line's kin should carry; a larger source is refused, not cut.
const MAX_SOURCE_BYTES: u64 = 1024 * 1024;
/// Items are `opt/keelson/<key>`, and a key may have slashes; this deep nobody goes.
const MAX_DEPTH: usize = 4;

#[derive(Debug, Error)]
pub(crate) enum ConfigurationError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {} KiB", path.display(), MAX_SOURCE_BYTES / 1024)]
    TooLarge { path: PathBuf },
    #[error(transparent)]
    Faults(#[from] ConfigErrors),
    #[error("the cluster's settings on STATE")]
    Scopes(#[from] KeptError),
    #[error("the parser's rights cannot be given up")]
    Confine(#[from] SetUpError),
}

/// Where STATE is to be, and what is wrong with the sources, if STATE has nothing to say to that.
pub(crate) fn selection(command_line: Vec<u8>) -> Result<Selection, ConfigurationError> {
    let inputs = inputs(command_line)?;
    service::confine_parser()?;
    let state = state_selection(&inputs)?;
    let fault = resolve(&inputs, &Remembered::default()).err().map(|error| chain(&error));
    Ok(Selection { state, fault })
}

/// Every source, and what all of them together mean.
pub(crate) fn run(command_line: Vec<u8>, remembered: &Remembered) -> Result<Configuration, ConfigurationError> {
    let inputs = inputs(command_line)?;
    let told = scopes(Path::new(SCOPES_PATH));
    service::confine_parser()?;
    let resolved = resolve(&inputs, remembered)?;
    let (config, note) = match told.and_then(|told| with_scopes(&resolved.node, told.as_deref())) {
        Ok(config) => (config, None),
        // Holding would keep the machine from where operators can mend what they have said.
        Err(error) => {
            let note = format!("the node goes without what operators have told its cluster: {}", chain(&error));
            (resolved.node, Some(note))
        }
    };
    let credentials = resolved.secrets.registry_credentials.into_iter();
    Ok(Configuration {
        node: Box::new(config),
        token: resolved.secrets.token.map(|token| token.expose().to_owned()),
        registry_credentials: credentials
            .map(|(host, given)| (host, (given.username, given.password.expose().to_owned())))
            .collect(),
        note,
    })
}

/// What operators have told the node's cluster, if anything.
fn scopes(path: &Path) -> Result<Option<Vec<u8>>, ConfigurationError> {
    path.exists().then(|| read(path)).transpose()
}

/// What operators have told the node's cluster goes over what the machine's own sources say.
fn with_scopes(own: &NodeConfig, told: Option<&[u8]>) -> Result<NodeConfig, ConfigurationError> {
    match told {
        Some(told) if own.cluster_id.is_some() => Ok(overlay(own, &Scopes::from_file(told)?)?),
        // Of a join that was cut off there may be a copy without a cluster.
        _ => Ok(own.clone()),
    }
}

/// The bytes of every source that this machine has. The command line is PID 1's: another process does not see all of it.
fn inputs(command_line: Vec<u8>) -> Result<Inputs, ConfigurationError> {
    Ok(Inputs {
        esp: esp::files(&command_line),
        command_line,
        dmi_table: read_if_any(Path::new(DMI_TABLE))?,
        fw_cfg: fw_cfg(Path::new(FW_CFG))?,
    })
}

fn fw_cfg(by_name: &Path) -> Result<BTreeMap<String, Vec<u8>>, ConfigurationError> {
    let mut items = BTreeMap::new();
    collect(by_name, Path::new(FW_CFG_ITEMS), MAX_DEPTH, &mut items)?;
    Ok(items)
}

/// An item is a directory with a file `raw`; its name is its path.
fn collect(
    by_name: &Path,
    name: &Path,
    depth: usize,
    items: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), ConfigurationError> {
    let directory = by_name.join(name);
    let raw = directory.join("raw");
    if raw.is_file() {
        items.insert(name.to_string_lossy().into_owned(), read(&raw)?);
        return Ok(());
    }
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
    if depth == 0 {
        return Ok(());
    }
    for entry in entries.flatten() {
        collect(by_name, &name.join(entry.file_name()), depth - 1, items)?;
    }
    Ok(())
}

fn read_if_any(path: &Path) -> Result<Vec<u8>, ConfigurationError> {
    if path.exists() { read(path) } else { Ok(Vec::new()) }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConfigurationError> {
    let failed = |source| ConfigurationError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_SOURCE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SOURCE_BYTES {
        return Err(ConfigurationError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(root: &Path, name: &str, content: &str) {
        let directory = root.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("raw"), content).unwrap();
    }

    #[test]
    fn items_are_found_by_their_whole_name_and_others_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        item(root.path(), "opt/keelson/role", "worker");
        item(root.path(), "opt/keelson/document", "kind: Node");
        item(root.path(), "opt/org.qemu/secret", "x");
        item(root.path(), "etc/system-states", "x");
        let items = fw_cfg(root.path()).unwrap();
        assert_eq!(items.keys().collect::<Vec<_>>(), ["opt/keelson/document", "opt/keelson/role"]);
        assert_eq!(items["opt/keelson/role"], b"worker");
    }

    fn member() -> NodeConfig {
        let inputs = Inputs { command_line: b"keelson.role=worker".to_vec(), ..Inputs::default() };
        let remembered = Remembered { cluster_id: Some("c".to_owned()), ..Remembered::default() };
        resolve(&inputs, &remembered).unwrap().node
    }

    #[test]
    fn what_operators_have_told_the_cluster_is_a_members_and_nobody_elses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let spec = serde_json::json!({ "timeServers": ["time.example"] });
        fs::write(file.path(), Scopes { node: None, cluster: Some(spec) }.to_file().unwrap()).unwrap();
        let mut own = member();
        let told = scopes(file.path()).unwrap();
        assert_eq!(with_scopes(&own, told.as_deref()).unwrap().ntp_servers, ["time.example"]);
        assert_eq!(scopes(Path::new("/nonexistent")).unwrap(), None);
        assert_eq!(with_scopes(&own, None).unwrap(), own);
        own.cluster_id = None;
        assert_eq!(with_scopes(&own, told.as_deref()).unwrap(), own);
    }

    #[test]
    fn what_is_wrong_with_it_is_told_and_is_no_fault_of_the_machine() {
        let told = |content: &[u8]| chain(&with_scopes(&member(), Some(content)).unwrap_err());
        assert!(told(b"{").contains("on STATE: it cannot be read"));
        let later = Scopes { node: Some(serde_json::json!({ "later": 1 })), cluster: None };
        let said = told(&later.to_file().unwrap());
        assert!(said.contains("the settings of this node, field spec.later: there is no such field"), "{said}");
    }

    #[test]
    fn machine_without_fw_cfg_has_no_items() {
        assert!(fw_cfg(Path::new("/nonexistent")).unwrap().is_empty());
    }

    #[test]
    fn source_of_any_size_is_not_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_SOURCE_BYTES + 1).unwrap();
        assert!(matches!(read(file.path()), Err(ConfigurationError::TooLarge { .. })));
    }
}
