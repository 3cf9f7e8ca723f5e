//! The root file system: the allowlist's files, packed as erofs.
//!
//! The libraries are listed like all else, and compared with what the programs really need ([`check_libraries`]): a
//! library that a new Debian release adds or drops then shows up as a change of the list, not as a program that fails to
//! start on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SOURCE_DATE_EPOCH;
use super::allowlist::{Entry, LIBRARIES, What};
use super::digest::Inputs;
use super::elf;
use super::error::{BuildError, FileContext as _};
use super::step::Step;

/// Where the kinds of entries find their files.
#[derive(Debug)]
pub(crate) struct Sources {
    /// image/files/
    pub(crate) files: PathBuf,
    /// The tree that mkosi composed.
    pub(crate) debian: PathBuf,
    /// The folder of each Go module's programs.
    pub(crate) go: BTreeMap<&'static str, PathBuf>,
    /// The folder of the checkout's programs.
    pub(crate) rust: PathBuf,
    /// The OCI archives by their short names.
    pub(crate) archives: BTreeMap<&'static str, PathBuf>,
    /// Small files' contents by name.
    pub(crate) texts: BTreeMap<&'static str, String>,
}

/// What an entry is made from.
enum Content {
    Nothing,
    Copy(PathBuf),
    Text(String),
}

impl Sources {
    fn content(&self, entry: &Entry) -> Result<Content, BuildError> {
        let file = match &entry.what {
            What::Folder { .. } | What::Link { .. } => return Ok(Content::Nothing),
            What::Text { name } => {
                let text = self.texts.get(name.as_str());
                return text.cloned().map(Content::Text).ok_or_else(|| unknown(entry, "text", name));
            }
            What::File => below(&self.files, &entry.path),
            What::Debian { source } => below(&self.debian, source),
            What::Library => below(&self.debian, &entry.path),
            What::Go { module, output } => {
                let folder = self.go.get(module.as_str()).ok_or_else(|| unknown(entry, "Go module", module))?;
                folder.join(output)
            }
            What::Rust { name } => self.rust.join(name),
            What::OciArchive { name } => {
                self.archives.get(name.as_str()).cloned().ok_or_else(|| unknown(entry, "image", name))?
            }
        };
        if file.is_file() {
            return Ok(Content::Copy(file));
        }
        let problem = format!("{} comes from {}, which does not exist", entry.path, file.display());
        Err(BuildError::Allowlist { line: entry.line, problem })
    }
}

fn unknown(entry: &Entry, kind: &str, name: &str) -> BuildError {
    BuildError::Allowlist { line: entry.line, problem: format!("no {kind} is called {name}") }
}

fn below(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

/// Everything that the root's bytes depend on.
pub(crate) fn inputs(entries: &[Entry], sources: &Sources) -> Result<Inputs, BuildError> {
    let mut inputs = Inputs::new("root", 2);
    for entry in entries {
        inputs = inputs.text("entry", &format!("{} {:?}", entry.path, entry.what));
        inputs = match sources.content(entry)? {
            Content::Nothing => inputs,
            Content::Copy(path) => inputs.file(&entry.path, &path)?,
            Content::Text(text) => inputs.text(&entry.path, &text),
        };
    }
    Ok(inputs)
}

/// Fails when a program lacks a library, and when a library is there that none needs.
pub(crate) fn check_libraries(entries: &[Entry], sources: &Sources) -> Result<(), BuildError> {
    let listed: BTreeMap<&str, &Entry> = entries
        .iter()
        .filter(|entry| entry.what == What::Library)
        .filter_map(|entry| Some((entry.path.strip_prefix(LIBRARIES)?.trim_start_matches('/'), entry)))
        .collect();
    let mut needed = BTreeSet::new();
    for entry in entries {
        let Content::Copy(path) = sources.content(entry)? else { continue };
        for library in elf::needed(&path)? {
            if !listed.contains_key(library.as_str()) {
                return Err(BuildError::LibraryMissing { program: entry.path.clone().into(), library });
            }
            needed.insert(library);
        }
    }
    match listed.iter().find(|(name, _)| !needed.contains(**name)) {
        None => Ok(()),
        Some((name, entry)) => {
            Err(BuildError::Allowlist { line: entry.line, problem: format!("no program needs {name}") })
        }
    }
}

/// Makes the tree.
pub(crate) fn compose(entries: &[Entry], sources: &Sources, tree: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(tree).at("make", tree)?;
    for entry in entries {
        let place = below(tree, &entry.path);
        let content = sources.content(entry)?;
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).at("make", parent)?;
        }
        match (&entry.what, content) {
            (What::Link { target }, _) => {
                symlink(target, &place).at("make the link", &place)?;
                continue;
            }
            (_, Content::Nothing) => fs::create_dir_all(&place).at("make", &place)?,
            (_, Content::Copy(source)) => {
                fs::copy(&source, &place).at("copy to", &place)?;
            }
            (_, Content::Text(text)) => fs::write(&place, text).at("write", &place)?,
        }
        fs::set_permissions(&place, Permissions::from_mode(entry.what.mode())).at("set the mode of", &place)?;
    }
    plain_folders(entries, tree)
}

/// Gives the folders that came along as parents the usual mode, whatever our umask is.
fn plain_folders(entries: &[Entry], tree: &Path) -> Result<(), BuildError> {
    let named: BTreeSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    let parents: BTreeSet<&Path> =
        entries.iter().flat_map(|entry| Path::new(&entry.path).ancestors().skip(1)).collect();
    for parent in parents {
        let Some(path) = parent.to_str().filter(|path| !named.contains(path)) else { continue };
        let place = below(tree, path);
        fs::set_permissions(&place, Permissions::from_mode(0o755)).at("set the mode of", &place)?;
    }
    Ok(())
}

/// Packs the tree.
pub(crate) fn pack(debian: &Path, tree: &Path, image: &Path, step: &mut Step<'_>) -> Result<(), BuildError> {
    let mut mkfs = erofs_tool(debian, "mkfs.erofs");
    mkfs.args([
        "--quiet",
        // Level 3: at 9 the image is 3 % smaller, at 5 times the time. A level must be named: without one it is 19 % larger.
        "-zzstd,3",
        "--all-root",
        // No extended attributes, whatever the file system of the cache attaches.
        "-x-1",
        // One identity for all images: the content's hash is what tells them apart.
        "-U6b65656c-736f-6e00-8000-726f6f740001",
    ]);
    mkfs.arg(format!("-T{SOURCE_DATE_EPOCH}")).arg(image).arg(tree);
    step.run(&mut mkfs)
}

/// A tool that came with Debian's part: the host's may be too old to know zstd. It runs on the libraries beside it.
pub(crate) fn erofs_tool(debian: &Path, name: &str) -> Command {
    let libraries = below(debian, LIBRARIES);
    let mut tool = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    tool.arg("--library-path").arg(&libraries).arg(below(debian, "/usr/bin").join(name));
    tool
}
