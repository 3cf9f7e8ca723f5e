//! The log against a model: random operations, reopened and with power cut at any moment.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What the log must hold, kept by rules simple enough to be right.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

#[derive(Clone, Debug)]
enum Step {
    Append { count: u8, size: u16 },
    Vote,
    Truncate { back: u8 },
    Purge { keep: u8 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..8_u8, 0..1500_u16).prop_map(|(count, size)| Step::Append { count, size }),
        1 => Just(Step::Vote),
        2 => (0..6_u8).prop_map(|back| Step::Truncate { back }),
        2 => (0..12_u8).prop_map(|keep| Step::Purge { keep }),
        1 => Just(Step::Reopen),
    ]
}

impl Model {
    fn next(&self) -> u64 {
        self.entries.keys().next_back().copied().or(self.purged.map(|id| id.index)).map_or(1, |last| last + 1)
    }

    /// Does the step to the model and returns the operation for the log.
    fn step(&mut self, step: &Step, term: u64) -> Option<Operation> {
        match *step {
            Step::Append { count, size } => {
                let first = self.next();
                let new = entries(term, first..first + u64::from(count), usize::from(size));
                self.entries.extend(new.iter().map(|entry| (entry.id.index, entry.clone())));
                Some(Operation::Append(new))
            }
            Step::Vote => {
                let vote = Vote { term, member: MemberId(term), committed: term.is_multiple_of(2) };
                self.vote = Some(vote);
                Some(Operation::Vote(vote))
            }
            Step::Truncate { back } => {
                let first = self.next().saturating_sub(u64::from(back)).max(self.purged.map_or(1, |id| id.index + 1));
                self.entries.retain(|index, _| *index < first);
                Some(Operation::Truncate(first))
            }
            Step::Purge { keep } => {
                let last = self.next().checked_sub(1 + u64::from(keep))?;
                let id = self.entries.get(&last)?.id;
                self.entries.retain(|index, _| *index > last);
                self.purged = Some(id);
                Some(Operation::Purge(id))
            }
            Step::Reopen => None,
        }
    }

    fn matches(&self, log: &Log) -> bool {
        let marks = log.marks();
        marks.vote == self.vote && marks.purged == self.purged && all(log).iter().eq(self.entries.values())
    }
}

fn submit(log: &Log, operation: Operation, done: Completion) {
    match operation {
        Operation::Append(entries) => log.append(entries, done).unwrap(),
        Operation::Vote(vote) => log.save_vote(vote, done),
        Operation::Truncate(first) => log.truncate(first, done),
        Operation::Purge(last) => log.purge(last, done),
        Operation::Flush => log.flush(done),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_model_after_each_reopening(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let disk = FakeDisk::new();
        let mut model = Model::default();
        let mut log = open(&disk, seed).unwrap();
        for (term, step) in steps.iter().enumerate() {
            if let Some(operation) = model.step(step, term as u64 + 1) {
                wait(|done| submit(&log, operation, done)).unwrap();
            } else {
                drop(log);
                log = open(&disk, seed ^ term as u64).unwrap();
            }
            prop_assert!(model.matches(&log), "after {:?}", step);
        }
        drop(log);
        prop_assert!(model.matches(&open(&disk, seed).unwrap()));
    }

    /// Power is cut while operations are under way; the log must equal the model after some operation that is no earlier than the last
    /// acknowledged one.
    #[test]
    fn a_power_cut_loses_nothing_acknowledged(steps in prop::collection::vec(step(), 2..40), cut in 0..1000_usize, seed: u64) {
        let mut throws = Throws::new(seed);
        let disk = FakeDisk::new();
        let mut models = vec![Model::default()];
        let acknowledged = Arc::new(Mutex::new(0));
        let log = open(&disk, seed).unwrap();
        let cut = cut % steps.len();
        let mut image = None;
        for (number, step) in steps.iter().enumerate() {
            let mut model = models.last().unwrap().clone();
            if let Some(operation) = model.step(step, number as u64 + 1) {
                models.push(model);
                let serial = models.len() - 1;
                let acknowledged = Arc::clone(&acknowledged);
                let done: Completion = Box::new(move |result| {
                    result.unwrap();
                    *acknowledged.lock().unwrap() = serial;
                });
                submit(&log, operation, done);
                // Some are waited for, some overlap with what follows.
                if throws.below(3) == 0 {
                    wait(|done| log.flush(done)).unwrap();
                }
            }
            if number == cut {
                let least = *acknowledged.lock().unwrap();
                image = Some((least, disk.crash(&mut throws)));
            }
        }
        let (least, image) = image.unwrap();
        let recovered = open(&image, seed ^ 1).unwrap();
        let found = models.iter().rposition(|model| model.matches(&recovered));
        // An operation may be split over batches, or survive without its answer; never less than was acknowledged.
        let marks = recovered.marks();
        let survivors = all(&recovered);
        let whole = found.is_some_and(|found| found >= least);
        let part = models[least..].windows(2).any(|pair| {
            let after: Vec<_> = pair[1].entries.values().cloned().collect();
            after.starts_with(&survivors) && survivors.len() >= pair[0].entries.len() && marks.purged == pair[1].purged
        });
        prop_assert!(whole || part, "{marks:?} is none of the {} states from {least} on", models.len());
        // A second recovery finds the same, and the log goes on.
        drop(recovered);
        let again = open(&image, seed ^ 2).unwrap();
        prop_assert_eq!(again.marks(), marks);
        let next = marks.last.map_or(1, |id| id.index + 1);
        append(&again, entries(1000, next..next + 3, 100));
        drop(again);
        prop_assert_eq!(open(&image, seed ^ 3).unwrap().marks().last, Some(LogId { term: 1000, index: next + 2 }));
    }
}
