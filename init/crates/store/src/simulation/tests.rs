//! The histories of many seeds. `KEELSON_SIMULATION_SEEDS=10000` makes it many more (with `--release`, or it takes hours); a failure
//! prints its seed, and `KEELSON_SIMULATION_FIRST` begins there.

use super::Bug;
use super::faults::Fault;
use super::history::{Plan, simulate};

const SEEDS: u64 = 12;
/// Of a reason, which may hold a whole history.
const MOST_TOLD: usize = 4000;
/// Within so many seeds each defect must be noticed.
const BUG_SEEDS: u64 = 40;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |value| value.parse().unwrap())
}

#[test]
fn histories_under_faults_hold_what_is_promised() {
    let first = number("KEELSON_SIMULATION_FIRST", 1);
    let seeds = number("KEELSON_SIMULATION_SEEDS", SEEDS);
    let mut acknowledged = 0;
    let began = std::time::Instant::now();
    for seed in first..first + seeds {
        match simulate(seed, Plan::default()) {
            Ok(report) => {
                println!("seed {seed}, after {:?}: {report:?}", began.elapsed());
                acknowledged += report.acknowledged;
            }
            Err(reason) => panic!("seed {seed}: {}", reason.chars().take(MOST_TOLD).collect::<String>()),
        }
    }
    assert!(acknowledged as u64 > 10 * seeds, "{acknowledged} operations prove nothing");
}

#[test]
fn a_seed_repeats_its_run_step_by_step() {
    for seed in 2..=3 {
        assert_eq!(simulate(seed, Plan::default()), simulate(seed, Plan::default()), "seed {seed}");
    }
}

/// Why the first history in which a defect shows does not hold. Without the defect that history does.
fn caught(bug: Bug, plan: Plan) -> String {
    for seed in 1..=BUG_SEEDS {
        if let Err(reason) = simulate(seed, Plan { bug: Some(bug), ..plan }) {
            assert!(simulate(seed, plan).is_ok(), "seed {seed} does not hold without the defect either");
            println!("{bug:?} is caught at seed {seed}: {}", reason.chars().take(300).collect::<String>());
            return reason;
        }
    }
    panic!("{bug:?} is not noticed within {BUG_SEEDS} seeds");
}

#[test]
fn reads_without_read_index_are_caught() {
    let reason = caught(Bug::NoReadIndex, Plan::default());
    assert!(reason.contains("not linearizable"), "{reason}");
}

#[test]
fn reads_that_join_a_round_under_way_are_caught() {
    // It shows where a round takes long and something is written meanwhile.
    let faults = &[Fault::Weather, Fault::Weather, Fault::Stop, Fault::Heal];
    let plan = Plan { faults, rounds: 30, operator: false, members: Some(3), ..Plan::default() };
    let reason = caught(Bug::JoinedRound, plan);
    assert!(reason.contains("not linearizable") || reason.contains("before"), "{reason}");
}

#[test]
fn a_skipped_sync_is_caught() {
    caught(Bug::SkippedSync, Plan::default());
}

#[test]
fn a_reused_id_is_caught() {
    caught(Bug::ReusedId, Plan::default());
}

#[test]
fn a_leader_that_is_restored_without_an_election_is_caught() {
    // It reads what is old until the others have spoken to it, or gives the place of an entry that its disk had not yet, and theirs had, to
    // another in the same term.
    let faults = &[Fault::KillAndRestart];
    let plan = Plan { faults, rounds: 40, operator: false, members: Some(3), ..Plan::default() };
    caught(Bug::LeaderRestore, plan);
}

#[test]
fn an_early_progress_mark_is_caught() {
    let reason = caught(Bug::EarlyProgress, Plan::default());
    assert!(reason.contains("a mark of revision"), "{reason}");
}
