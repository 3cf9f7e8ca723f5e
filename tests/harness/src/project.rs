//! Where things are: the checkout, cargo's target folder, the machines' folders.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::build::{self, BuildError, BuildRequest, Cache, Image, Progress};
use crate::kubectl::text_at;

#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("cannot {operation} {path}", path = path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{name:?} is no name for a machine: letters, digits and hyphens, at most 32")]
    MachineName { name: String },
    #[error("cannot run cargo")]
    Cargo(#[source] std::io::Error),
    #[error("building {package} failed:\n{output}")]
    Package { package: &'static str, output: String },
    #[error("cargo built no test {test} of {package}")]
    NoTest { package: &'static str, test: &'static str },
}

#[derive(Debug, Clone)]
pub struct Project {
    checkout: PathBuf,
    target: PathBuf,
}

impl Project {
    /// The checkout that this program was built from.
    pub fn of_this_build() -> Self {
        let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
        let checkout = harness.ancestors().nth(2).unwrap_or(harness).to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
        Self { checkout, target }
    }

    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folder of all machines, or of one.
    pub fn machines(&self) -> PathBuf {
        self.target.join("vm")
    }

    pub fn machine_folder(&self, name: &str) -> Result<PathBuf, ProjectError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
            return Err(ProjectError::MachineName { name: name.to_owned() });
        }
        Ok(self.machines().join(name))
    }

    /// Builds all that boots, or finds it built.
    pub fn image(&self, progress: &mut dyn Progress) -> Result<Image, BuildError> {
        let image = build::image(&self.request()?, progress)?;
        // A later `cargo vm kubectl` need not build anything to find it.
        let link = self.kubectl_link();
        let replaced = std::fs::remove_file(&link).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        replaced
            .and_then(|()| std::os::unix::fs::symlink(&image.kubectl, &link))
            .map_err(|source| BuildError::File { operation: "link", path: link, source })?;
        Ok(image)
    }

    /// Makes sure that the host has these Debian packages.
    pub fn packages(&self, names: &[&str], progress: &mut dyn Progress) -> Result<(), BuildError> {
        build::packages(names, &self.request()?, progress)
    }

    /// What is to be built, and where.
    pub fn request(&self) -> Result<BuildRequest, BuildError> {
        Ok(BuildRequest {
            checkout: self.checkout.clone(),
            target: self.target.clone(),
            cache: Cache::of_user()?,
            install_packages: true,
        })
    }

    fn kubectl_link(&self) -> PathBuf {
        self.target.join("kubectl")
    }

    /// kubectl of the last build.
    pub fn built_kubectl(&self) -> Option<PathBuf> {
        self.kubectl_link().canonicalize().ok()
    }

    /// Builds the operator's command line for this host and returns its path.
    pub fn keelctl(&self) -> Result<PathBuf, ProjectError> {
        self.program("keelctl")
    }

    /// Builds the program that makes the boot benchmark's baseline and returns its path.
    pub fn baseline(&self) -> Result<PathBuf, ProjectError> {
        self.program("keelson-baseline")
    }

    /// Builds etcd for this host, or finds it in the cache, and returns its path.
    pub fn etcd(&self, progress: &mut dyn Progress) -> Result<PathBuf, BuildError> {
        build::etcd(&self.request()?, progress)
    }

    /// Builds the store, and the program that loads it and etcd, for this host. Returns their paths.
    pub fn store_and_load(&self) -> Result<(PathBuf, PathBuf), ProjectError> {
        Ok((self.program("keelson-store")?, self.program("keelson-load")?))
    }

    /// Builds a package whose program has the same name, for this host, with the image's flags: what both are made of is compiled once.
    fn program(&self, package: &'static str) -> Result<PathBuf, ProjectError> {
        let mut cargo = self.cargo(&["build", "--quiet", "--release", "--package", package]);
        build::use_image_flags(&mut cargo, &self.checkout, &self.target);
        run(package, &mut cargo)?;
        Ok(self.target.join("x86_64-unknown-linux-gnu/release").join(package))
    }

    /// A package's tests, as `cargo test` of the whole workspace builds them: asked for by their package they would be compiled
    /// again, with all that they depend on. The command runs them where cargo does.
    pub fn tests(&self, package: &'static str, test: &'static str) -> Result<Command, ProjectError> {
        let arguments = ["test", "--workspace", "--test", test, "--no-run", "--message-format=json"];
        let messages = run(package, &mut self.cargo(&arguments))?;
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let folder = |message: &Value| {
            let manifest = Path::new(text_at(message, "/manifest_path"));
            manifest.parent().filter(|folder| is_package(folder, package)).map(Path::to_owned)
        };
        for message in messages.filter(|message| text_at(message, "/target/name") == test) {
            if let (Some(folder), program) = (folder(&message), text_at(&message, "/executable"))
                && !program.is_empty()
            {
                let mut command = Command::new(program);
                command.current_dir(folder);
                return Ok(command);
            }
        }
        Err(ProjectError::NoTest { package, test })
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.checkout).args(arguments).env("CARGO_TARGET_DIR", &self.target);
        cargo
    }
}

/// What it prints.
fn run(package: &'static str, cargo: &mut Command) -> Result<String, ProjectError> {
    let output = cargo.output().map_err(ProjectError::Cargo)?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(ProjectError::Package { package, output });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_package(folder: &Path, package: &str) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.lines().any(|line| line == format!("name = \"{package}\"")))
}

/// Makes `folder` and what is above it.
pub fn create_folder(folder: &Path) -> Result<(), ProjectError> {
    std::fs::create_dir_all(folder).map_err(|source| ProjectError::File {
        operation: "create",
        path: folder.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_stays_inside_its_folder() {
        let project = Project::of_this_build();
        assert!(project.machine_folder("single-1").unwrap().ends_with("vm/single-1"));
        for name in ["", "..", "a/b", "a b", &"x".repeat(33)] {
            assert!(matches!(project.machine_folder(name), Err(ProjectError::MachineName { .. })), "{name:?}");
        }
    }

    #[test]
    fn the_checkout_holds_the_workspace() {
        assert!(Project::of_this_build().checkout().join("init/crates/sys/Cargo.toml").is_file());
    }
}
