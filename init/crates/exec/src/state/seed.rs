//! The random seed that one boot leaves to the next.
//!
//! The body of `seed` is [`SEED_BYTES`] random bytes, and behind them one that says what they are worth: [`CREDITABLE`] if the kernel's pool
//! was ready when they were drawn, else [`MIXED_ONLY`]. Bytes of a pool that was not ready may be guessable; the next boot mixes them in,
//! which can only help, and does not credit them, which would call the pool ready when it is not. A file of another length, as earlier
//! releases wrote it, is not credited either.
//!
//! A seed is spent once: it is mixed in without credit, then a new one takes its place on the disk, and only then is the old one credited.
//! A power cut in between cannot make two boots count the same secret.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use keelson_sys::entropy::{self, SEED_BYTES};

use super::{StateError, worthless_if_damaged};
use crate::durable;

const CREDITABLE: u8 = b'c';
const MIXED_ONLY: u8 = b'm';

/// The kernel's pool. Tests have another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pool<'a> {
    pub(super) device: &'a Path,
    pub(super) is_ready: fn() -> bool,
}

impl Default for Pool<'_> {
    fn default() -> Self {
        Self { device: Path::new("/dev/urandom"), is_ready: entropy::is_ready }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seed {
    bytes: [u8; SEED_BYTES],
    creditable: bool,
}

impl Seed {
    /// Asked first and drawn afterwards: a pool that is ready stays so.
    fn draw(pool: Pool<'_>) -> io::Result<Self> {
        let creditable = (pool.is_ready)();
        Ok(Self { bytes: entropy::seed_material()?, creditable })
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = self.bytes.to_vec();
        body.push(if self.creditable { CREDITABLE } else { MIXED_ONLY });
        body
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (bytes, worth) = body.split_first_chunk()?;
        Some(Self { bytes: *bytes, creditable: worth == [CREDITABLE] })
    }
}

/// Uses the saved seed, if there is one, and leaves another.
pub(super) fn spend(state: &Path, pool: Pool<'_>, notes: &mut Vec<String>) -> Result<(), StateError> {
    let path = state.join("seed");
    let old = worthless_if_damaged(durable::read(&path, "seed"), notes).and_then(|body| Seed::decode(&body));
    if let Some(old) = old {
        // Anybody may write here; it only ever adds.
        fs::write(pool.device, old.bytes).map_err(StateError::Random)?;
    }
    save(&path, pool)?;
    if let Some(old) = old.filter(|old| old.creditable) {
        let credited = File::open(pool.device).and_then(|device| entropy::credit(&device, &old.bytes));
        if let Err(error) = credited {
            notes.push(format!("the saved seed is not credited: {error}"));
        }
        // That may have made the pool ready, and then there is a better one to leave.
        improve(state, pool)?;
    }
    Ok(())
}

/// Replaces a seed that was drawn too early, once the pool is ready.
pub(super) fn improve(state: &Path, pool: Pool<'_>) -> Result<(), StateError> {
    let path = state.join("seed");
    // What is damaged is as good as none.
    let saved = durable::read(&path, "seed").ok().flatten().and_then(|body| Seed::decode(&body));
    if saved.is_some_and(|saved| saved.creditable) || !(pool.is_ready)() {
        return Ok(());
    }
    save(&path, pool)
}

fn save(path: &Path, pool: Pool<'_>) -> Result<(), StateError> {
    let new = Seed::draw(pool).map_err(StateError::Random)?;
    Ok(durable::write(path, "seed", &new.encode())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pool cannot be credited by everyone, and must not be by a test: a plain file stands for it, which takes no credit and says so.
    struct Place {
        state: tempfile::TempDir,
        device: tempfile::NamedTempFile,
    }

    impl Place {
        fn new() -> Self {
            Self { state: tempfile::tempdir().unwrap(), device: tempfile::NamedTempFile::new().unwrap() }
        }

        fn pool(&self, is_ready: fn() -> bool) -> Pool<'_> {
            Pool { device: self.device.path(), is_ready }
        }

        /// Whether the old one was credited, or would have been by a real pool.
        fn boot(&self, is_ready: fn() -> bool) -> bool {
            let mut notes = Vec::new();
            spend(self.state.path(), self.pool(is_ready), &mut notes).unwrap();
            notes.iter().any(|note| note.contains("is not credited"))
        }

        fn saved(&self) -> Seed {
            Seed::decode(&durable::read(&self.state.path().join("seed"), "seed").unwrap().unwrap()).unwrap()
        }
    }

    #[test]
    fn seed_is_new_after_each_boot_and_credited_by_the_next() {
        let place = Place::new();
        assert!(!place.boot(|| true), "there was none");
        let first = place.saved();
        assert!(place.boot(|| true));
        assert_eq!(fs::read(place.device.path()).unwrap(), first.bytes);
        assert_ne!(place.saved().bytes, first.bytes);
    }

    #[test]
    fn seed_of_a_pool_that_was_not_ready_is_mixed_in_and_never_credited() {
        let place = Place::new();
        place.boot(|| false);
        let early = place.saved();
        assert!(!early.creditable);
        assert!(!place.boot(|| true));
        assert_eq!(fs::read(place.device.path()).unwrap(), early.bytes);
        assert!(place.saved().creditable);
        // One without a word on what it is worth is worth no more.
        durable::write(&place.state.path().join("seed"), "seed", &[7; SEED_BYTES]).unwrap();
        assert!(!place.boot(|| true));
    }

    #[test]
    fn seed_that_was_drawn_too_early_is_replaced_once_the_pool_is_ready() {
        let place = Place::new();
        place.boot(|| false);
        let early = place.saved();
        improve(place.state.path(), place.pool(|| false)).unwrap();
        assert_eq!(place.saved(), early);
        improve(place.state.path(), place.pool(|| true)).unwrap();
        let later = place.saved();
        assert!(later.creditable && later.bytes != early.bytes);
        improve(place.state.path(), place.pool(|| true)).unwrap();
        assert_eq!(place.saved(), later, "a good one stays until it is spent");
    }
}
