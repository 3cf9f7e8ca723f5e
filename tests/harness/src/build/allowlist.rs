//! The root's allowlist, `image/root.allow`: everything that is in the root file system.
//!
//! An allowlist rather than removal from a distribution's image, because what is not named cannot be there: no shell,
//! interpreter or package manager has to be remembered and removed (DESIGN.md, section 5).

use std::path::{Component, Path};

use super::error::BuildError;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its line in the file.
    pub line: usize,
    /// Its path in the root, absolute.
    pub path: String,
    /// What it is.
    pub what: What,
}

/// What stands at a path, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A folder, empty in the image.
    Folder {
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
    /// A file from image/files/.
    File,
    /// A file of Debian's part.
    Debian {
        /// Its path there.
        source: String,
    },
    /// A shared library of Debian's part.
    Library,
    /// A Go program.
    Go {
        /// The module.
        module: String,
        /// The program's name among the module's outputs.
        output: String,
    },
    /// A program of this checkout.
    Rust {
        /// The binary's name.
        name: String,
    },
    /// An OCI archive.
    OciArchive {
        /// The image's short name.
        name: String,
    },
    /// A small file whose content the build knows.
    Text {
        /// Which.
        name: String,
    },
}

/// Where Debian keeps shared libraries, and the root too: the dynamic loader looks there without a cache.
pub(crate) const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

impl What {
    /// The permissions of what is made.
    pub fn mode(&self) -> u32 {
        match self {
            Self::Folder { mode } => *mode,
            Self::Link { .. } => 0o777,
            Self::Go { .. } | Self::Rust { .. } | Self::Library => 0o755,
            Self::Debian { source } if source.contains("/bin/") || source.contains("/sbin/") => 0o755,
            Self::File | Self::Debian { .. } | Self::OciArchive { .. } | Self::Text { .. } => 0o444,
        }
    }
}

/// Reads the allowlist.
pub fn parse(text: &str) -> Result<Vec<Entry>, BuildError> {
    let mut entries: Vec<Entry> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        let failure = |problem: String| BuildError::Allowlist { line: index + 1, problem };
        let entry = entry(index + 1, &words).map_err(failure)?;
        if let Some(other) = entries.iter().find(|other| other.path == entry.path) {
            return Err(failure(format!("{} is on line {} already", entry.path, other.line)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(line: usize, words: &[&str]) -> Result<Entry, String> {
    let (path, what) = match *words {
        ["folder", path, mode] => {
            let mode = u32::from_str_radix(mode, 8).map_err(|_| format!("{mode} is no octal mode"))?;
            (path.to_owned(), What::Folder { mode })
        }
        ["link", path, target] => (path.to_owned(), What::Link { target: target.to_owned() }),
        ["file", path] => (path.to_owned(), What::File),
        ["debian", path] => (path.to_owned(), What::Debian { source: path.to_owned() }),
        ["debian", path, source] => (path.to_owned(), What::Debian { source: source.to_owned() }),
        ["library", name] => (format!("{LIBRARIES}/{name}"), What::Library),
        ["go", path, source] => {
            let (module, output) = source.split_once('/').ok_or_else(|| format!("{source} is not MODULE/OUTPUT"))?;
            (path.to_owned(), What::Go { module: module.to_owned(), output: output.to_owned() })
        }
        ["rust", path, name] => (path.to_owned(), What::Rust { name: name.to_owned() }),
        ["image", path, name] => (path.to_owned(), What::OciArchive { name: name.to_owned() }),
        ["text", path, name] => (path.to_owned(), What::Text { name: name.to_owned() }),
        _ => return Err(format!("no entry has the form {:?}", words.join(" "))),
    };
    let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
    if !path.starts_with('/') || !Path::new(&path).components().all(plain) || path.ends_with('/') {
        return Err(format!("{path} is no plain absolute path"));
    }
    if what.mode() & 0o6000 != 0 {
        return Err(format!("{path} would be setuid or setgid"));
    }
    Ok(Entry { line, path, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn reads_each_form() {
        let entries = parse(
            "# comment\n\nfolder /proc 0555\ndebian /usr/bin/nft /usr/sbin/nft\ngo /usr/bin/runc runc/runc\nlibrary libc.so.6\n",
        );
        let entries = entries.unwrap();
        assert_eq!(entries[0], Entry { line: 3, path: "/proc".into(), what: What::Folder { mode: 0o555 } });
        assert_eq!(entries[1].what.mode(), 0o755);
        assert_eq!(entries[2].what, What::Go { module: "runc".into(), output: "runc".into() });
        assert_eq!(entries[3].path, "/usr/lib/x86_64-linux-gnu/libc.so.6");
    }

    #[test]
    fn refuses_what_it_does_not_understand_and_names_the_line() {
        assert_eq!(
            problem("folder /proc 0555\nfile\n"),
            "the root's allowlist, line 2: no entry has the form \"file\""
        );
        assert!(problem("folder /x 9").contains("no octal mode"));
        assert!(problem("file etc/hosts").contains("no plain absolute path"));
        assert!(problem("file /etc/../hosts").contains("no plain absolute path"));
        assert!(problem("go /usr/bin/runc runc").contains("not MODULE/OUTPUT"));
    }

    #[test]
    fn refuses_setuid_and_duplicates() {
        assert!(problem("folder /x 4755").contains("setuid"));
        assert!(problem("file /a\nfolder /a 0755").contains("line 1 already"));
    }
}
