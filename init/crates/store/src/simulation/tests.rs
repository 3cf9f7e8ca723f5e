//! The histories of many seeds. `KEELSON_SIMULATION_SEEDS=10000` makes it many more; a failure prints its seed, and `KEELSON_SIMULATION_FIRST`
//! begins there.

use super::cluster::{Bug, simulate};

const SEEDS: u64 = 20;
/// Within so many seeds each defect must be noticed.
const BUG_SEEDS: u64 = 20;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |value| value.parse().unwrap())
}

#[test]
fn histories_under_faults_are_linearizable_and_members_agree() {
    let first = number("KEELSON_SIMULATION_FIRST", 1);
    let seeds = number("KEELSON_SIMULATION_SEEDS", SEEDS);
    let mut operations = 0;
    for seed in first..first + seeds {
        match simulate(seed, None) {
            Ok(report) => operations += report.operations,
            Err(reason) => panic!("seed {seed}: {reason}"),
        }
    }
    println!("{operations} operations");
    assert!(operations as u64 > 10 * seeds, "{operations} operations prove nothing");
}

/// The first seed at which a defect shows.
fn caught(bug: Bug) -> (u64, String) {
    for seed in 1..=BUG_SEEDS {
        if let Err(reason) = simulate(seed, Some(bug)) {
            println!("{bug:?} is caught at seed {seed}: {}", reason.chars().take(200).collect::<String>());
            return (seed, reason);
        }
    }
    panic!("{bug:?} is not noticed within {BUG_SEEDS} seeds");
}

#[test]
fn reads_without_read_index_are_caught() {
    assert!(caught(Bug::NoReadIndex).1.contains("not linearizable"));
}

#[test]
fn a_skipped_sync_is_caught() {
    caught(Bug::SkippedSync);
}

#[test]
fn a_reused_id_is_caught() {
    caught(Bug::ReusedId);
}
