//! Links between members that are cut, one way or both, lossy and slow; members that are killed and stopped: all of it under clients whose answers
//! are checked.

use std::time::{Duration, Instant};

use keelson_mutation::Random;
use rustix::process::Signal;

use crate::harness::Cluster;
use crate::history::Load;
use crate::world::{World, is_root};

const MEMBERS: u8 = 3;
/// How long a fault lasts at least.
const LASTS: Duration = Duration::from_millis(1500);
/// Packets of a hundred that a bad link loses.
const LOSS_PERCENT: u8 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    LeaderCutOff,
    /// It hears nobody, and is heard.
    LeaderDeaf,
    /// It hears all, and nobody hears it.
    LeaderMute,
    FollowerMute,
    /// Between the leader and one other, whom the third hears both.
    LinkCut,
    Lossy,
    LeaderSlow,
    LeaderStopped,
    LeaderKilled,
    AllKilled,
}

const FAULTS: [Fault; 10] = [
    Fault::LeaderCutOff,
    Fault::LeaderDeaf,
    Fault::LeaderMute,
    Fault::FollowerMute,
    Fault::LinkCut,
    Fault::Lossy,
    Fault::LeaderSlow,
    Fault::LeaderStopped,
    Fault::LeaderKilled,
    Fault::AllKilled,
];

impl Fault {
    /// Whether clients are served meanwhile, once another leads if need be.
    fn leaves_a_quorum(self) -> bool {
        !matches!(self, Self::LeaderDeaf | Self::Lossy | Self::AllKilled)
    }

    pub(crate) async fn begin(self, cluster: &mut Cluster, world: &World) {
        let leader = cluster.leader().await;
        let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let cuts: &[(usize, usize)] = match self {
            Self::LeaderCutOff => &[(leader, one), (leader, other), (one, leader), (other, leader)],
            Self::LeaderDeaf => &[(one, leader), (other, leader)],
            Self::LeaderMute => &[(leader, one), (leader, other)],
            Self::FollowerMute => &[(one, leader), (one, other)],
            Self::LinkCut => &[(leader, one), (one, leader)],
            _ => &[],
        };
        for (from, to) in cuts {
            world.cut(*from, *to);
        }
        match self {
            Self::Lossy => world.lose(LOSS_PERCENT),
            Self::LeaderSlow => world.slow(leader),
            Self::LeaderStopped => cluster.members[leader].signal(Signal::STOP),
            Self::LeaderKilled => cluster.members[leader].kill(),
            Self::AllKilled => cluster.members.iter_mut().for_each(crate::harness::Member::kill),
            _ => {}
        }
    }

    pub(crate) async fn end(cluster: &mut Cluster, world: &World) {
        world.heal();
        for member in &mut cluster.members {
            if member.is_running() {
                member.signal(Signal::CONT);
            } else {
                member.start();
            }
        }
        for member in &cluster.members {
            member.wait_until_ready().await;
        }
    }
}

/// Each fault once, and then any.
async fn faults(world: &World, rounds: usize) {
    let mut cluster = Cluster::founded_at(world.places(), &[]).await;
    let load = Load::start(&cluster);
    let mut random = Random::new(1);
    for round in 0..rounds {
        let fault = FAULTS.get(round).or_else(|| random.choose(&FAULTS)).copied().unwrap();
        load.progress(&format!("answers before {fault:?}")).await;
        let (begun, before) = (Instant::now(), load.answered());
        fault.begin(&mut cluster, world).await;
        if fault.leaves_a_quorum() {
            load.progress(&format!("answers in spite of {fault:?}")).await;
        }
        tokio::time::sleep(LASTS.saturating_sub(begun.elapsed())).await;
        let (lasted, meanwhile) = (begun.elapsed(), load.answered() - before);
        Fault::end(&mut cluster, world).await;
        load.progress(&format!("answers after {fault:?}")).await;
        println!(
            "{fault:?}: {meanwhile} answers in {lasted:?}, whole again {:?} later",
            begun.elapsed().saturating_sub(lasted)
        );
    }
    load.end(&cluster).await;
    cluster.assert_equal_hashes().await;
}

/// `KEELSON_LINKS_ROUNDS` makes it longer.
#[test]
fn cut_and_slow_links_lose_nothing_and_show_nothing_stale() {
    if !is_root() {
        return;
    }
    let rounds = std::env::var("KEELSON_LINKS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let world = World::new(MEMBERS);
    world.as_client(|| faults(&world, rounds.unwrap_or(FAULTS.len())));
}
