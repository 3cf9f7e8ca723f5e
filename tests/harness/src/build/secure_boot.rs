//! Secure Boot with keys of one's own: the platform key, the key-exchange key and the key that signs, as a folder that
//! `cargo vm keys` makes and `cargo vm image --keys` uses.
//!
//! What is signed is systemd-boot and the unified kernel image, whose root hash covers the rest; signing is the last step, over
//! bytes that anybody can build again. The ESP carries the public halves as signed variables: firmware in its setup mode is
//! given them by systemd-boot on the first boot in a virtual machine, and by its menu or the firmware's own on others.
//!
//! Keys and certificates are openssl's, signatures and variables sbsigntool's.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{BuildError, FileContext as _};
use super::packages;
use super::progress::{Outcome, Progress};
use super::step::{Step, Steps};

/// The keys' names, which are their files' and their variables'. Each is signed by the one before it, the first by itself.
const KEYS: [&str; 3] = ["PK", "KEK", "db"];
/// Who owns the keys' entries in the firmware's lists; one for all of a folder.
const OWNER: &str = "owner";
/// Ten years: firmware looks at no date, and who looks after the keys should.
const DAYS: &str = "3650";

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// The keys in a folder that [`Keys::make`] has filled.
    pub fn open(folder: &Path) -> Result<Self, BuildError> {
        let keys = Self { folder: folder.to_owned() };
        for name in KEYS {
            let certificate = keys.file(name, "crt");
            fs::metadata(&certificate).at("find", &certificate)?;
        }
        Ok(keys)
    }

    /// Makes new keys. A folder that exists is somebody's and is left alone.
    pub fn make(folder: &Path, install: bool, logs: PathBuf, progress: &mut dyn Progress) -> Result<Self, BuildError> {
        let mut steps = Steps::new(logs, progress)?;
        steps.step("packages for keys", |step| Ok(((), packages::ensure(packages::SIGNING, install, step)?)))?;
        steps.step("keys", |step| {
            fs::create_dir(folder).at("make", folder)?;
            fs::set_permissions(folder, Permissions::from_mode(0o700)).at("close", folder)?;
            let keys = Self { folder: folder.to_owned() };
            keys.fill(step)?;
            Ok((keys, Outcome::Built))
        })
    }

    fn fill(&self, step: &mut Step<'_>) -> Result<(), BuildError> {
        let owner = owner()?;
        let path = self.folder.join(OWNER);
        fs::write(&path, &owner).at("write", &path)?;
        let mut signer = KEYS[0];
        for name in KEYS {
            let key = self.file(name, "key");
            // Openssl would make it with whatever the umask allows.
            File::options().write(true).create_new(true).mode(0o600).open(&key).at("make", &key)?;
            let mut request = Command::new("openssl");
            request.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-sha256", "-noenc", "-days", DAYS, "-subj"]);
            request.arg(format!("/CN=Keelson Secure Boot {name}/")).arg("-keyout").arg(&key);
            step.run(request.arg("-out").arg(self.file(name, "crt")))?;
            let mut list = Command::new("sbsiglist");
            list.args(["--owner", owner.trim(), "--type", "x509", "--output"]).arg(self.file(name, "esl"));
            let der = self.file(name, "der");
            let mut convert = Command::new("openssl");
            convert.args(["x509", "-outform", "der", "-in"]).arg(self.file(name, "crt")).arg("-out").arg(&der);
            step.run(&mut convert)?;
            step.run(list.arg(&der))?;
            let mut sign = Command::new("sbvarsign");
            sign.args([
                "--attr",
                "NON_VOLATILE,RUNTIME_ACCESS,BOOTSERVICE_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS",
            ]);
            sign.arg("--key").arg(self.file(signer, "key")).arg("--cert").arg(self.file(signer, "crt"));
            sign.arg("--output").arg(self.file(name, "auth")).arg(name).arg(self.file(name, "esl"));
            step.run(&mut sign)?;
            signer = name;
        }
        Ok(())
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.join(name).with_extension(extension)
    }

    /// What tells these keys from others.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.file("db", "crt")
    }

    /// The variables for the ESP, by the names under which systemd-boot looks for them.
    pub(crate) fn variables(&self) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
        let read = |name: &str| {
            let path = self.file(name, "auth");
            Ok((format!("loader/keys/auto/{name}.auth"), fs::read(&path).at("read", &path)?))
        };
        KEYS.into_iter().map(read).collect()
    }

    /// Signs an EFI program.
    pub(crate) fn sign(&self, program: &Path, signed: &Path, step: &mut Step<'_>) -> Result<(), BuildError> {
        let mut sbsign = Command::new("sbsign");
        sbsign.arg("--key").arg(self.file("db", "key")).arg("--cert").arg(self.file("db", "crt"));
        step.run(sbsign.arg("--output").arg(signed).arg(program))
    }
}

/// A random identity (RFC 9562, version 4).
fn owner() -> Result<String, BuildError> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(64).read_to_string(&mut text)).at("read", path)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_without_keys_is_refused_by_the_missing_files_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("PK.crt"), "").unwrap();
        let error = Keys::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("KEK.crt"), "{error}");
    }

    #[test]
    fn identities_are_random() {
        assert_eq!(owner().unwrap().trim().len(), 36);
        assert_ne!(owner().unwrap(), owner().unwrap());
    }
}
