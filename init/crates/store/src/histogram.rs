//! How long a kind of operation took, counted in etcd's buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// etcd's for its log and its database: from one millisecond, doubling.
const BUCKETS: usize = 14;
const SMALLEST: Duration = Duration::from_millis(1);

/// Counts of one operation; observing takes no lock.
#[derive(Debug, Default)]
pub struct Histogram {
    /// By bucket; the last is for what took longer than all bounds.
    counts: [AtomicU64; BUCKETS + 1],
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

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let bounds = (0..BUCKETS).map(|number| SMALLEST * (1 << number));
        let bucket = bounds.take_while(|bound| took > *bound).count();
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for (number, observed) in self.counts.iter().enumerate() {
            count += observed.load(Ordering::Relaxed);
            if number < BUCKETS {
                buckets.push(((SMALLEST * (1 << number)).as_secs_f64(), count));
            }
        }
        let sum_seconds = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        Snapshot { buckets, count, sum_seconds }
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
}
