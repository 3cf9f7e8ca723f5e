//! How long a kind of operation took, counted in the buckets that etcd has for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// etcd's for its log and its database: from one millisecond, doubling.
const BUCKETS: u32 = 14;
const SMALLEST: Duration = Duration::from_millis(1);

/// Counts of one operation; observing takes no lock.
#[derive(Debug)]
pub struct Histogram {
    /// Ascending.
    bounds: Box<[Duration]>,
    /// By bucket; the last is for what took longer than all bounds.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

/// As Prometheus wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Upper bounds in seconds, each with how many took no longer.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::doubling(SMALLEST, BUCKETS)
    }
}

impl Histogram {
    /// With so many bounds, each twice the one before it.
    pub fn doubling(smallest: Duration, bounds: u32) -> Self {
        Self::new((0..bounds).map(|number| smallest * (1 << number)))
    }

    pub fn new(bounds: impl Iterator<Item = Duration>) -> Self {
        let bounds: Box<[Duration]> = bounds.collect();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, nanoseconds: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| took > *bound);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count.load(Ordering::Relaxed);
            Some(*sum)
        });
        let counts: Vec<u64> = counts.collect();
        let buckets = self.bounds.iter().map(Duration::as_secs_f64).zip(counts.iter().copied()).collect();
        let sum_seconds = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        Snapshot { buckets, count: counts.last().copied().unwrap_or(0), sum_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_cumulative_and_bounds_belong_to_their_bucket() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 3, 1_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets[..3], [(0.001, 2), (0.002, 3), (0.004, 4)]);
        assert_eq!(snapshot.buckets.last(), Some(&(8.192, 4)));
        assert_eq!(snapshot.count, 5);
        assert!((snapshot.sum_seconds - 1000.006).abs() < 1e-9);
    }

    #[test]
    fn bounds_are_those_that_were_given() {
        let histogram = Histogram::doubling(Duration::from_micros(100), 16);
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.buckets.len(), snapshot.buckets[0], snapshot.buckets[15]), (16, (0.0001, 0), (3.2768, 0)));
    }
}
