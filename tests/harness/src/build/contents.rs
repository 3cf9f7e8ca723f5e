//! What is really in a packed root, compared with the allowlist: for the test that guards it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::allowlist::{Entry, What};
use super::error::{BuildError, FileContext as _};
use super::root;

/// Unpacks a root into a folder that does not exist yet.
pub fn unpack(image: &super::Image, folder: &Path) -> Result<(), BuildError> {
    let program = "fsck.erofs".to_owned();
    let mut fsck = root::erofs_tool(&image.debian, &program);
    fsck.arg(format!("--extract={}", folder.display())).arg(&image.root);
    let failed = |source| BuildError::Start { step: "unpack the root".to_owned(), program, source };
    let output = fsck.output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(BuildError::Malformed { path: image.root.clone(), problem })
}

/// Everything in which a tree differs from the allowlist, and everything in it that no root may have whatever the
/// allowlist says: set-user-id files, devices, scripts, shells and interpreters.
pub fn differences(entries: &[Entry], tree: &Path) -> Result<Vec<String>, BuildError> {
    let mut expected: BTreeMap<PathBuf, Option<&Entry>> = BTreeMap::new();
    for entry in entries {
        for parent in Path::new(&entry.path).ancestors().skip(1) {
            expected.entry(parent.to_path_buf()).or_insert(None);
        }
        expected.insert(PathBuf::from(&entry.path), Some(entry));
    }
    let mut found = Vec::new();
    for (path, data) in walk(tree)? {
        match expected.remove(&path) {
            None => found.push(format!("{} is not on the list", path.display())),
            Some(None) if !data.is_dir() => found.push(format!("{} is no folder", path.display())),
            Some(None) => {}
            Some(Some(entry)) => found.extend(mismatch(entry, &data, &tree.join(relative(&path)))),
        }
        found.extend(forbidden(&path, &data, &tree.join(relative(&path))));
    }
    found.extend(expected.keys().map(|path| format!("{} is missing", path.display())));
    Ok(found)
}

fn mismatch(entry: &Entry, data: &Metadata, place: &Path) -> Option<String> {
    let right_kind = match &entry.what {
        What::Folder { .. } => data.is_dir(),
        What::Link { target } => {
            data.is_symlink() && fs::read_link(place).is_ok_and(|found| found == Path::new(target))
        }
        _ => data.is_file(),
    };
    if !right_kind {
        return Some(format!("{} is not what line {} says", entry.path, entry.line));
    }
    let mode = data.mode() & 0o7777;
    (!data.is_symlink() && mode != entry.what.mode())
        .then(|| format!("{} has mode {mode:o}, not {:o}", entry.path, entry.what.mode()))
}

fn forbidden(path: &Path, data: &Metadata, place: &Path) -> Option<String> {
    /// Programs that turn text from somewhere into actions, and what installs software.
    const NAMES: &[&str] = &[
        "sh", "ash", "bash", "busybox", "dash", "ksh", "toybox", "zsh", "awk", "gawk", "mawk", "lua", "node", "perl",
        "python", "python3", "ruby", "tclsh", "apk", "apt", "apt-get", "dnf", "dpkg", "rpm", "login", "su", "sudo",
        "sshd",
    ];
    if data.mode() & 0o6000 != 0 {
        return Some(format!("{} is setuid or setgid", path.display()));
    }
    if !data.is_dir() && !data.is_file() && !data.is_symlink() {
        return Some(format!("{} is a device, pipe or socket", path.display()));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !data.is_dir() && NAMES.contains(&name) {
        return Some(format!("{} has the name of a shell, an interpreter or an installer", path.display()));
    }
    let is_script = data.is_file() && fs::read(place).is_ok_and(|content| content.starts_with(b"#!"));
    is_script.then(|| format!("{} is a script", path.display()))
}

/// All that is below a folder, by absolute path in it; the folder itself is `/`.
fn walk(tree: &Path) -> Result<Vec<(PathBuf, Metadata)>, BuildError> {
    let mut all = Vec::new();
    let mut open = vec![PathBuf::from("/")];
    while let Some(path) = open.pop() {
        let place = tree.join(relative(&path));
        let data = fs::symlink_metadata(&place).at("examine", &place)?;
        if data.is_dir() {
            for entry in place.read_dir().at("list", &place)? {
                open.push(path.join(entry.at("list", &place)?.file_name()));
            }
        }
        all.push((path, data));
    }
    Ok(all)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::allowlist::parse;
    use super::*;

    fn tree() -> (tempfile::TempDir, Vec<Entry>) {
        let entries = parse("folder /proc 0555\nfile /etc/hosts\nlink /bin usr/bin\n").unwrap();
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        fs::create_dir_all(at("etc")).unwrap();
        fs::create_dir_all(at("proc")).unwrap();
        fs::set_permissions(at("proc"), Permissions::from_mode(0o555)).unwrap();
        fs::write(at("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::set_permissions(at("etc/hosts"), Permissions::from_mode(0o444)).unwrap();
        symlink("usr/bin", at("bin")).unwrap();
        (tree, entries)
    }

    #[test]
    fn tree_that_is_as_listed_has_no_differences() {
        let (tree, entries) = tree();
        assert_eq!(differences(&entries, tree.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_named() {
        let (tree, entries) = tree();
        let at = |path: &str| tree.path().join(path);
        fs::write(at("etc/extra"), "").unwrap();
        fs::remove_file(at("bin")).unwrap();
        fs::write(at("bin"), "").unwrap();
        fs::set_permissions(at("etc/hosts"), Permissions::from_mode(0o644)).unwrap();
        fs::remove_dir(at("proc")).unwrap();
        let mut found = differences(&entries, tree.path()).unwrap();
        found.sort();
        assert_eq!(
            found,
            [
                "/bin is not what line 3 says",
                "/etc/extra is not on the list",
                "/etc/hosts has mode 644, not 444",
                "/proc is missing",
            ]
        );
    }

    #[test]
    fn shell_script_and_setuid_are_found_even_when_listed() {
        let entries = parse("file /sh\nfile /script\nfile /suid\n").unwrap();
        let tree = tempfile::tempdir().unwrap();
        for (name, content, mode) in [("sh", "", 0o444), ("script", "#!/x", 0o444), ("suid", "", 0o4444)] {
            fs::write(tree.path().join(name), content).unwrap();
            fs::set_permissions(tree.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        let found = differences(&entries, tree.path()).unwrap();
        for problem in ["/sh has the name of a shell", "/script is a script", "/suid is setuid"] {
            assert!(found.iter().any(|line| line.starts_with(problem)), "{problem} is not in {found:?}");
        }
    }
}
