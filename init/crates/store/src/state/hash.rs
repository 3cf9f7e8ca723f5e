//! A range's hash ([`crate::mvcc::hash`]), taken while it is used.

use super::{Hashed, KeySpace, Rejection};
use crate::mvcc::Mvcc;
use crate::mvcc::hash::Hasher;

/// Rows hashed under one hold of the range's lock.
const HASH_ROWS: usize = 1024;

impl KeySpace {
    /// At a revision, 0 for the newest, which is returned as well.
    pub async fn hash_at(&self, revision: i64) -> Result<(Hashed, i64), Rejection> {
        let begin = |mvcc: &Mvcc, current: i64| {
            if revision > 0 && revision < mvcc.compact_revision() {
                return Err(Rejection::Compacted);
            }
            if revision > current {
                return Err(Rejection::FutureRevision);
            }
            let revision = if revision <= 0 { current } else { revision };
            // Keeps the rows that a compaction after this moment would remove. Those of earlier ones are not in the hash, however far that is.
            let pin = self.pin(mvcc.compact_revision());
            Ok((Hasher::new(mvcc, revision), pin, current))
        };
        let (mut hasher, pin, current) = self.read(begin)?;
        let hash = loop {
            if let Some(hash) = pin.read(|mvcc, _| hasher.step(mvcc, HASH_ROWS))? {
                break hash;
            }
            tokio::task::yield_now().await;
        };
        Ok((Hashed { revision: hasher.revision, compact_revision: hasher.compact_revision, hash }, current))
    }
}
