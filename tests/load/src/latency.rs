//! How long answers took: counts in buckets whose width grows with the time, so that each is known to about 3 %.

use std::time::Duration;

use serde::Serialize;

/// Buckets for each doubling of the time.
const PARTS: u32 = 32;
/// Microseconds up to 2^36: 19 hours.
const DOUBLINGS: u32 = 36;

#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; (PARTS * DOUBLINGS) as usize], total: 0 }
    }
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
}

fn bucket(micros: u64) -> usize {
    let parts = u64::from(PARTS);
    if micros < parts {
        return usize::try_from(micros).unwrap_or(0);
    }
    // The doubling it is in, and which part of that.
    let doubling = micros.ilog2() - PARTS.ilog2();
    let part = (micros >> doubling) - parts;
    usize::try_from(u64::from(doubling + 1) * parts + part).unwrap_or(usize::MAX)
}

/// The longest time that is counted in a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let parts = PARTS as usize;
    if bucket < parts {
        return bucket as u64;
    }
    let doubling = bucket / parts - 1;
    (((bucket % parts + parts + 1) as u64) << doubling) - 1
}

impl Latencies {
    pub(crate) fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        if let Some(count) = self.counts.get_mut(bucket(micros).min(last)) {
            *count += 1;
            self.total += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles { p50: self.at(500), p99: self.at(990), p999: self.at(999) }
    }

    /// The time within which so many of a thousand were done.
    fn at(&self, per_mille: u64) -> u64 {
        let rank = (self.total * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return upper_bound(bucket);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_known_to_three_percent() {
        let mut latencies = Latencies::default();
        for micros in 1..=100_000 {
            latencies.record(Duration::from_micros(micros));
        }
        let Percentiles { p50, p99, p999 } = latencies.percentiles();
        for (found, exact) in [(p50, 50_000_u64), (p99, 99_000), (p999, 99_900)] {
            assert!(found >= exact && found <= exact + exact / 30, "{found} for {exact}");
        }
        assert_eq!(latencies.total(), 100_000);
    }

    #[test]
    fn each_time_is_in_the_bucket_that_ends_at_or_behind_it() {
        for micros in (0..5000).chain([1 << 20, (1 << 30) + 12345]) {
            let bucket = bucket(micros);
            assert!(upper_bound(bucket) >= micros, "{micros}");
            assert!(bucket == 0 || upper_bound(bucket - 1) < micros, "{micros}");
        }
    }
}
