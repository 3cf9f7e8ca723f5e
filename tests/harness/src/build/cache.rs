//! Results of build steps, kept by the hash of what they were made from.
//!
//! Layout: `<cache>/<kind>-<hash>/` is one result, `<cache>/<kind>.lock` is held while one of that kind is made, and
//! `<cache>/making-<kind>-<hash>/` is a result that is not finished. A result is moved into place whole, so a folder with
//! a final name is complete; the leftovers of a build that was cut short are removed by the next one.
//!
//! The most recently used results of each kind are kept and older ones removed, so that the cache does not
//! grow with every change of a kernel fragment.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{BuildError, FileContext as _};
use super::progress::Outcome;

/// How many results of one kind are kept: a few branches' worth, as kernels and Go programs take long to make.
const KEPT: usize = 4;

/// A folder of results.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    kept: usize,
}

impl Cache {
    /// The cache in a folder of one's choice.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), kept: KEPT }
    }

    /// The user's: `$XDG_CACHE_HOME/keelson`, or `~/.cache/keelson`.
    pub fn of_user() -> Result<Self, BuildError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = variable("XDG_CACHE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .ok_or(BuildError::NoCacheFolder)?;
        Ok(Self::at(base.join("keelson")))
    }

    /// Keeps another number of results of each kind.
    #[must_use]
    pub fn keeping(self, kept: usize) -> Self {
        Self { kept, ..self }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The result of this kind for this hash. When there is none, `make` fills an empty folder, which becomes it.
    ///
    /// Of two processes that want the same kind at once, one makes it and the other waits.
    pub(crate) fn result(
        &self,
        kind: &str,
        hash: &str,
        make: impl FnOnce(&Path) -> Result<(), BuildError>,
    ) -> Result<(PathBuf, Outcome), BuildError> {
        // Sixteen hexadecimal digits are 64 bits: plenty for some dozens of results, and short enough to read.
        let name = format!("{kind}-{}", hash.get(..16).unwrap_or(hash));
        let place = self.folder.join(&name);
        if touch(&place) {
            return Ok((place, Outcome::Cached));
        }

        fs::create_dir_all(&self.folder).at("make", &self.folder)?;
        let lock_path = self.folder.join(format!("{kind}.lock"));
        let lock = File::create(&lock_path).at("make", &lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        if touch(&place) {
            return Ok((place, Outcome::Cached));
        }

        let unfinished = self.folder.join(format!("making-{name}"));
        remove_tree(&unfinished)?;
        fs::create_dir(&unfinished).at("make", &unfinished)?;
        make(&unfinished)?;
        fs::rename(&unfinished, &place).at("move into place", &place)?;
        self.remove_old(kind)?;
        Ok((place, Outcome::Built))
    }

    fn remove_old(&self, kind: &str) -> Result<(), BuildError> {
        let mut results = Vec::new();
        for entry in self.folder.read_dir().at("list", &self.folder)? {
            let entry = entry.at("list", &self.folder)?;
            let name = entry.file_name();
            let is_of_kind = name
                .to_str()
                .and_then(|name| name.strip_prefix(kind)?.strip_prefix('-'))
                .is_some_and(|hash| !hash.contains('-'));
            if is_of_kind {
                let used = entry.metadata().and_then(|data| data.modified()).at("examine", entry.path())?;
                results.push((used, entry.path()));
            }
        }
        results.sort();
        let surplus = results.len().saturating_sub(self.kept);
        results.iter().take(surplus).try_for_each(|(_, path)| remove_tree(path))
    }
}

/// Marks a result as used now; false when there is none.
fn touch(place: &Path) -> bool {
    let Ok(folder) = File::open(place) else { return false };
    // A cache that is mounted read-only still serves.
    let _ = folder.set_times(FileTimes::new().set_modified(SystemTime::now()));
    true
}

/// Removes a folder with all that is in it, also when it does not exist and when some folder in it may not be entered.
pub(crate) fn remove_tree(folder: &Path) -> Result<(), BuildError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", folder),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path) -> Result<(), BuildError> {
        fs::write(folder.join("file"), "content").at("write", folder)
    }

    #[test]
    fn makes_a_result_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let (place, outcome) = cache.result("kind", "0123456789abcdef00", write).unwrap();
        assert_eq!(outcome, Outcome::Built);
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "content");
        let again = cache.result("kind", "0123456789abcdef00", |_| panic!("made twice")).unwrap();
        assert_eq!(again, (place, Outcome::Cached));
    }

    #[test]
    fn failed_result_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let failure = cache.result("kind", "aa", |place| {
            write(place)?;
            Err(BuildError::NoCacheFolder)
        });
        assert!(failure.is_err());
        let (place, outcome) = cache
            .result("kind", "aa", |place| {
                assert_eq!(place.read_dir().unwrap().count(), 0, "leftovers of the failed one");
                write(place)
            })
            .unwrap();
        assert!(place.join("file").exists());
        assert_eq!(outcome, Outcome::Built);
    }

    #[test]
    fn keeps_the_most_recently_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).keeping(3);
        let age = |name: &str, seconds| {
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::open(folder.path().join(name)).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        };
        for number in 0..3 {
            cache.result("kind", &format!("{number}"), write).unwrap();
            age(&format!("kind-{number}"), 1000 + number);
        }
        cache.result("kind-of-another", "0", write).unwrap();
        age("kind-of-another-0", 1);
        cache.result("kind", "0", write).unwrap();
        cache.result("kind", "new", write).unwrap();
        let exists = |name: &str| folder.path().join(name).exists();
        assert!(exists("kind-0") && exists("kind-new") && exists("kind-of-another-0"));
        assert!(!exists("kind-1"), "the one not used for longest goes");
    }

    #[test]
    fn two_builds_at_once_make_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    Cache::at(folder.path())
                        .result("kind", "aa", |place| {
                            made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            write(place)
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
