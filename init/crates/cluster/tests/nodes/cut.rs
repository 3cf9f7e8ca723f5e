//! Files on a disk whose machine loses power after a number of changes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use keelson_pki::{Files, FilesError, Mode, Owner, StandardFiles};

pub(super) struct Cut {
    left: Mutex<usize>,
    disk: PathBuf,
}

impl Cut {
    /// `disk` is what the changes are counted of.
    pub(super) fn after(changes: usize, disk: PathBuf) -> Self {
        Self { left: Mutex::new(changes), disk }
    }

    /// The change has been made, and is the last one if so many were allowed.
    fn made(&self, path: &Path) {
        if !path.starts_with(&self.disk) {
            return;
        }
        let mut left = self.left.lock().unwrap();
        *left = left.saturating_sub(1);
        if *left == 0 {
            println!("the power goes after {}", path.display());
            std::process::exit(0);
        }
    }
}

impl Files for Cut {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FilesError> {
        StandardFiles.read(path)
    }

    fn write(&self, path: &Path, content: &[u8], mode: Mode, owner: Owner) -> Result<(), FilesError> {
        StandardFiles.write(path, content, mode, owner)?;
        self.made(path);
        Ok(())
    }

    fn directory(&self, path: &Path, mode: Mode, owner: Owner) -> Result<(), FilesError> {
        StandardFiles.directory(path, mode, owner)
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        let was_there = path.exists();
        StandardFiles.remove(path)?;
        if was_there {
            self.made(path);
        }
        Ok(())
    }
}
