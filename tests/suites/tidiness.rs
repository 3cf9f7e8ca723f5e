//! The tree is as STYLE asks: formatted, free of warnings, without paths of one machine, without unfinished code.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test program")]

use std::path::{Path, PathBuf};
use std::process::Command;

use keelson_vm::project::Project;

fn cargo(arguments: &[&str]) {
    let project = Project::of_this_build();
    let output = Command::new("cargo").current_dir(project.checkout()).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "cargo {}:\n{text}", arguments.join(" "));
}

#[test]
fn sources_are_formatted() {
    cargo(&["fmt", "--all", "--check"]);
}

#[test]
fn the_workspace_has_no_warnings() {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]);
}

/// Every file of ours that is under version control, or would be.
fn tracked_files() -> Vec<(PathBuf, String)> {
    let project = Project::of_this_build();
    let output = Command::new("git")
        .current_dir(project.checkout())
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .unwrap();
    let files: Vec<(PathBuf, String)> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.contains("/third-party/"))
        .map(|line| project.checkout().join(line))
        .filter_map(|path| std::fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect();
    assert!(files.len() > 50, "only {} files are listed", files.len());
    files
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let homes = ["/home/", "/root/.", "/work/"];
    for (path, text) in tracked_files() {
        if path.ends_with(Path::new(file!()).file_name().unwrap()) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let found = homes.iter().find(|home| line.contains(**home));
            assert!(found.is_none(), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

/// Only `sys` has unsafe code, so every other crate's root says so.
#[test]
fn every_crate_but_sys_forbids_unsafe_code() {
    let mut roots = 0;
    for (path, text) in tracked_files() {
        let name = path.file_name().unwrap_or_default();
        let in_source = path.parent().is_some_and(|folder| folder.ends_with("src"));
        if !in_source || !(name == "lib.rs" || name == "main.rs") || path.ends_with("sys/src/lib.rs") {
            continue;
        }
        roots += 1;
        assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", path.display());
    }
    assert!(roots > 10, "only {roots} crate roots were found");
}

#[test]
fn no_module_is_called_mod_rs() {
    let found: Vec<PathBuf> =
        tracked_files().into_iter().map(|(path, _)| path).filter(|path| path.ends_with("mod.rs")).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// What looks like a test's name in a document: words of a sentence, with underscores between them. Shorter ones may be an option of the
/// kernel's.
fn named_tests(document: &str) -> impl Iterator<Item = &str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        !word.ends_with("_total")
            && word.matches('_').count() >= 4
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

#[test]
fn every_test_that_a_document_names_exists() {
    let files = tracked_files();
    let sources: Vec<&str> = files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|(_, text)| text.as_str())
        .collect();
    let mut count = 0;
    for (path, text) in files.iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md")) {
        for name in named_tests(text) {
            // A function, or a trial by its name.
            let found = [format!("fn {name}("), format!("\"{name}\"")];
            let exists = sources.iter().any(|source| found.iter().any(|text| source.contains(text.as_str())));
            assert!(exists, "{}: there is no test {name}", path.display());
            count += 1;
        }
    }
    assert!(count > 50, "only {count} tests are named");
}
