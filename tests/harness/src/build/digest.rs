//! SHA-256, in the hexadecimal form that OCI and the cache's names use.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use super::error::{BuildError, FileContext as _};

/// A running digest of labelled inputs.
///
/// Each input goes in with its label and its length before it, so that no two different lists of inputs can feed the
/// same bytes.
#[derive(Clone)]
pub(crate) struct Inputs(Context);

impl Inputs {
    /// `format` is the version of the step's own rules: raise it when the code that makes the result changes.
    pub(crate) fn new(step: &str, format: u32) -> Self {
        Self(Context::new(&SHA256)).text("step", step).text("format", &format.to_string())
    }

    pub(crate) fn bytes(mut self, label: &str, bytes: &[u8]) -> Self {
        for part in [label.as_bytes(), bytes] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    pub(crate) fn text(self, label: &str, text: &str) -> Self {
        self.bytes(label, text.as_bytes())
    }

    /// A file's content; where the file is plays no part.
    pub(crate) fn file(self, label: &str, path: &Path) -> Result<Self, BuildError> {
        let digest = of_file(path)?;
        Ok(self.text(label, &digest))
    }

    /// All files below a folder, by their paths in it and their contents.
    pub(crate) fn tree(mut self, label: &str, folder: &Path) -> Result<Self, BuildError> {
        for path in files_below(folder)? {
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            self = self.file(&format!("{label}/{name}"), &path)?;
        }
        Ok(self)
    }

    pub(crate) fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// The regular files below a folder, sorted by path.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<std::path::PathBuf>, BuildError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            let kind = entry.file_type().at("examine", entry.path())?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
}

pub(crate) fn of_file(path: &Path) -> Result<String, BuildError> {
    let mut file = File::open(path).at("open", path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).at("read", path)?;
        match buffer.get(..length) {
            None | Some([]) => return Ok(hex(context.finish().as_ref())),
            Some(read) => context.update(read),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_share_their_bytes_differ() {
        let one = Inputs::new("step", 1).text("a", "bc").finish();
        let other = Inputs::new("step", 1).text("ab", "c").finish();
        assert_ne!(one, other);
    }

    #[test]
    fn tree_depends_on_names_and_contents_only() {
        let key = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
                std::fs::write(folder.path().join(name), content).unwrap();
            }
            Inputs::new("step", 1).tree("tree", folder.path()).unwrap().finish()
        };
        assert_eq!(key(&[("a/b", "1"), ("c", "2")]), key(&[("c", "2"), ("a/b", "1")]));
        assert_ne!(key(&[("a", "1")]), key(&[("b", "1")]));
        assert_ne!(key(&[("a", "1")]), key(&[("a", "2")]));
    }

    #[test]
    fn digest_of_nothing_is_the_known_one() {
        assert_eq!(of_bytes(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
