//! What the daemon waits for, said at growing intervals: soon enough to be of use, rarely enough to be read. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// After these waits a line is said, and after the last one again each time it passes.
const TOLD_AFTER: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_hours(1),
];

/// Something that is awaited since a moment; `what` reads well before "for 30 s, …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    pub what: String,
    pub since: Duration,
    /// What is being done about it: "still asking".
    pub meanwhile: &'static str,
}

#[derive(Debug, Default)]
pub struct Waiting {
    told: BTreeMap<String, Told>,
}

#[derive(Debug)]
struct Told {
    since: Duration,
    meanwhile: &'static str,
    /// How long the wait was when it was last said.
    waited: Option<Duration>,
    next: Duration,
}

impl Waiting {
    /// Takes what is awaited at `now` and returns the lines to be said.
    pub fn update(&mut self, now: Duration, awaited: Vec<Awaited>) -> Vec<String> {
        self.told.retain(|what, told| awaited.iter().any(|one| one.what == *what && one.since == told.since));
        for Awaited { what, since, meanwhile } in awaited {
            let next = since + interval(0);
            self.told.entry(what).or_insert(Told { since, meanwhile, waited: None, next });
        }
        let mut lines = Vec::new();
        for (what, told) in &mut self.told {
            if now >= told.next {
                let (waited, next) = passed(now.saturating_sub(told.since));
                told.waited = Some(waited);
                told.next = told.since + next;
                lines.push(line(what, waited, told.meanwhile));
            }
        }
        lines
    }

    /// Everything that has been awaited for long enough to be said, as it was last said.
    pub fn problems(&self) -> Vec<String> {
        let said = |(what, told): (&String, &Told)| told.waited.map(|waited| line(what, waited, told.meanwhile));
        self.told.iter().filter_map(said).collect()
    }

    /// When [`Self::update`] will have something to say if nothing changes.
    pub fn deadline(&self) -> Option<Duration> {
        self.told.values().map(|told| told.next).min()
    }
}

fn line(what: &str, waited: Duration, meanwhile: &str) -> String {
    format!("{what} for {} s, {meanwhile}", waited.as_secs())
}

fn interval(index: usize) -> Duration {
    TOLD_AFTER.get(index).copied().unwrap_or(Duration::MAX)
}

/// The last threshold that `waited` has passed and the next that it has not.
fn passed(waited: Duration) -> (Duration, Duration) {
    let last = interval(TOLD_AFTER.len() - 1);
    if waited >= last {
        let times = u32::try_from(waited.as_secs() / last.as_secs()).unwrap_or(u32::MAX - 1);
        return (last * times, last * (times + 1));
    }
    let below = TOLD_AFTER.iter().rev().find(|threshold| waited >= **threshold).copied().unwrap_or(waited);
    let above = TOLD_AFTER.iter().find(|threshold| waited < **threshold).copied().unwrap_or(last);
    (below, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn awaited(since: u64) -> Vec<Awaited> {
        let what = "no DHCP answer on eth0".to_owned();
        vec![Awaited { what, since: seconds(since), meanwhile: "still asking" }]
    }

    #[test]
    fn says_it_at_growing_intervals() {
        let mut waiting = Waiting::default();
        let mut said = Vec::new();
        let mut now = seconds(100);
        while now < seconds(100 + 2 * 3600 + 1) {
            said.extend(waiting.update(now, awaited(100)));
            now = waiting.deadline().unwrap();
        }
        let expected =
            [10, 30, 120, 600, 3600, 7200].map(|s| format!("no DHCP answer on eth0 for {s} s, still asking"));
        assert_eq!(said, expected);
        assert_eq!(waiting.problems(), [expected[5].clone()]);
    }

    #[test]
    fn a_short_wait_is_not_worth_a_word_and_a_new_one_starts_over() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.update(seconds(5), awaited(1)), Vec::<String>::new());
        assert_eq!(waiting.update(seconds(12), Vec::new()), Vec::<String>::new());
        assert_eq!((waiting.problems(), waiting.deadline()), (Vec::new(), None));
        assert_eq!(waiting.update(seconds(20), awaited(20)), Vec::<String>::new());
        assert_eq!(waiting.update(seconds(29), awaited(20)), Vec::<String>::new());
        assert_eq!(waiting.update(seconds(31), awaited(20)).len(), 1);
    }
}
