//! Reading files for the sake of having read them.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};

/// Little memory, and few calls.
const BLOCK_BYTES: usize = 1024 * 1024;

/// One after the other, in this order. Of one that cannot be read, whoever needs it will tell.
pub(crate) fn run(files: &[PathBuf]) {
    let mut block = vec![0; BLOCK_BYTES];
    for file in files {
        let Ok(mut file) = File::open(file) else { continue };
        // Only a hint.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        while file.read(&mut block).is_ok_and(|length| length > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_there_keep_nobody_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, vec![7; BLOCK_BYTES + 1]).unwrap();
        run(&[folder.path().join("not"), folder.path().to_owned(), there]);
    }
}
