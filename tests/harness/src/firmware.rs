//! UEFI firmware for machines that boot from a disk: Debian's OVMF, with variables of the machine's own.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::qemu::comma_doubled;

/// Where the package `ovmf` puts its files.
const FOLDER: &str = "/usr/share/OVMF";

/// The flash memory of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    pub code: PathBuf,
    /// The machine's own copy of the variables: boot entries, Secure Boot's keys, and what pstore saves.
    pub variables: PathBuf,
    /// The code that keeps its variables from the operating system, as Secure Boot needs it.
    pub secure: bool,
}

impl Firmware {
    /// Firmware that boots whatever is on the disk. `folder` is the machine's.
    pub fn plain(folder: &Path) -> io::Result<Self> {
        Self::new(folder, "OVMF_CODE_4M.fd", false)
    }

    /// Firmware that can be told to boot only what is signed. It has no keys yet: until it is given some it boots everything.
    pub fn secure(folder: &Path) -> io::Result<Self> {
        Self::new(folder, "OVMF_CODE_4M.secboot.fd", true)
    }

    fn new(folder: &Path, code: &str, secure: bool) -> io::Result<Self> {
        let variables = folder.join("variables.fd");
        std::fs::copy(Path::new(FOLDER).join("OVMF_VARS_4M.fd"), &variables)?;
        Ok(Self { code: Path::new(FOLDER).join(code), variables, secure })
    }

    /// QEMU's options: the machine type, and the two flash memories.
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        let (code, variables) = (self.code.display().to_string(), self.variables.display().to_string());
        let machine = if self.secure { "q35,smm=on" } else { "q35" };
        let mut options = vec![
            ("-M", machine.to_owned()),
            ("-drive", format!("if=pflash,format=raw,unit=0,readonly=on,file={}", comma_doubled(&code))),
            ("-drive", format!("if=pflash,format=raw,unit=1,file={}", comma_doubled(&variables))),
        ];
        if self.secure {
            options.push(("-global", "driver=cfi.pflash01,property=secure,value=on".to_owned()));
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secure_firmware_guards_its_variables() {
        let firmware = |secure| Firmware { code: "code".into(), variables: "a,b".into(), secure };
        let plain = firmware(false).options();
        assert_eq!(plain[2].1, "if=pflash,format=raw,unit=1,file=a,,b");
        assert!(plain.iter().all(|(name, value)| *name != "-global" && !value.contains("smm")));
        assert_eq!(firmware(true).options()[0].1, "q35,smm=on");
    }
}
