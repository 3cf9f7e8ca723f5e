//! Seeded mutation of inputs, for the tests of every parser of foreign bytes: whatever the bytes are, parsing ends and nothing
//! panics.
//!
//! `cargo test` runs a slice of each campaign. A long one is set by the environment: `KEELSON_FUZZ_INPUTS` is the number of inputs
//! for each parser, `KEELSON_FUZZ_SEED` where they begin. Each input follows from its own number, so one that failed is had again
//! alone, by its number as the seed and one input.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::panic::{RefUnwindSafe, catch_unwind, resume_unwind};

/// A small generator (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to and without the limit; 0 for a limit of 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.number() % limit).unwrap_or_default()
    }

    pub fn byte(&mut self) -> u8 {
        let [byte, ..] = self.number().to_le_bytes();
        byte
    }

    /// One of them; none of none.
    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let index = self.below(all.len());
        all.get(index)
    }
}

/// How often an input is changed at most.
const CHANGES_MAX: usize = 7;
/// How much of it one change takes at most.
const PIECE_MAX: usize = 24;

/// The seed with some pieces deleted, repeated, overwritten, or replaced by a word that means something to its parser.
pub fn mutate(random: &mut Random, seed: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(CHANGES_MAX) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(PIECE_MAX)).min(bytes.len());
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let piece = bytes.get(at..end).unwrap_or_default().to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
            2 => bytes.truncate(at),
            3 | 4 if at < bytes.len() => {
                // The ends of a field's range are where its reader errs.
                let other = random.byte();
                let value = random.choose(&[0, 0xff, other]).copied().unwrap_or_default();
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value);
            }
            _ => {
                let word = random.choose(words).copied().unwrap_or_default();
                drop(bytes.splice(at..at, word.iter().copied()));
            }
        }
    }
    bytes
}

/// Calls `check` with a generator for each input of a campaign, and prints on a failure how it is had again. `slice` is how many
/// inputs an ordinary run makes.
pub fn inputs(name: &str, slice: u64, check: impl Fn(&mut Random) + RefUnwindSafe) {
    let (count, start) = (setting("KEELSON_FUZZ_INPUTS", slice), setting("KEELSON_FUZZ_SEED", 1));
    for number in (0..count).map(|input| start.wrapping_add(input)) {
        if let Err(panic) = catch_unwind(|| check(&mut Random::new(number))) {
            report(&format!("{name}: again by KEELSON_FUZZ_SEED={number} KEELSON_FUZZ_INPUTS=1"));
            resume_unwind(panic);
        }
    }
}

/// Runs `check` on mutations of the seeds.
pub fn campaign(name: &str, slice: u64, seeds: &[Vec<u8>], words: &[&[u8]], check: impl Fn(&[u8]) + RefUnwindSafe) {
    inputs(name, slice, |random| {
        let seed = random.choose(seeds).cloned().unwrap_or_default();
        let input = mutate(random, &seed, words);
        if let Err(panic) = catch_unwind(|| check(&input)) {
            report(&format!("{name}: {}", shown(&input)));
            resume_unwind(panic);
        }
    });
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// As a string literal has it, cut to what a person reads.
fn shown(input: &[u8]) -> String {
    const SHOWN_MAX: usize = 4096;
    let mut text =
        input.iter().take(SHOWN_MAX).flat_map(|byte| byte.escape_ascii()).map(char::from).collect::<String>();
    if input.len() > SHOWN_MAX {
        // Writing to a string cannot fail.
        let _ = write!(text, "… and {} bytes more", input.len() - SHOWN_MAX);
    }
    text
}

#[expect(clippy::print_stderr, reason = "a test's output is where its failure is looked for")]
fn report(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_follow_from_their_numbers() {
        let make = |number| mutate(&mut Random::new(number), b"a seed of some length", &[b"word"]);
        assert_eq!(make(7), make(7));
        assert!((1..20).any(|number| make(number) != make(number + 1)));
    }

    #[test]
    fn failure_is_not_swallowed() {
        let failed = catch_unwind(|| {
            campaign("a parser", 200, &[b"abc".to_vec()], &[b"!"], |input| assert!(!input.contains(&b'!')));
        });
        assert!(failed.is_err());
    }

    #[test]
    fn nothing_to_choose_from_is_no_fault() {
        assert_eq!(Random::new(1).choose::<u8>(&[]), None);
        campaign("nothing", 50, &[], &[], |_| ());
    }
}
