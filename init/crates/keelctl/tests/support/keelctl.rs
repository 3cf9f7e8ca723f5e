//! An operator's machine: a directory with a key and a configuration file, and keelctl as a process.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use super::fixture::Fixture;

/// keelctl's directory on the operator's machine.
pub(crate) struct Workstation {
    directory: tempfile::TempDir,
}

/// What a command has printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{self:?} is not JSON: {error}"))
    }

    /// Asserts that the command ended well.
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Workstation {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    /// A workstation with a key, and a node that accepts it and is known as the context `home`.
    pub(crate) fn with_node() -> (Self, Fixture) {
        let workstation = Self::new();
        let word = workstation.run(&["key", "generate", &workstation.key()]).well().out;
        let public = word.trim().strip_prefix("keelson.operator-key=").expect("the word for the node").to_owned();
        let fixture = Fixture::start(&public);
        workstation.set_context(&fixture, &fixture.fingerprint());
        (workstation, fixture)
    }

    pub(crate) fn set_context(&self, fixture: &Fixture, fingerprint: &str) {
        let (endpoint, key) = (fixture.endpoint(), self.key());
        let words =
            ["config", "set-context", "home", "--endpoint", &endpoint, "--fingerprint", fingerprint, "--key", &key];
        self.run(&words).well();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn key(&self) -> String {
        self.path("operator.key").display().to_string()
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("keelctl-certificates/home.pem")
    }

    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        let Output { status, stdout, stderr } = self.command(words).output().expect("keelctl runs");
        Outcome {
            code: status.code().expect("keelctl ended by itself"),
            out: String::from_utf8(stdout).expect("text"),
            err: String::from_utf8(stderr).expect("text"),
        }
    }

    /// Runs keelctl until its output is read to the end, or it is killed.
    pub(crate) fn spawn(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("keelctl runs")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keelctl"));
        command
            .env_clear()
            .env("HOME", self.directory.path())
            .arg("--config")
            .arg(self.path("keelctl.yaml"))
            .args(words);
        command
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    let permissions =
        std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions();
    std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777
}
