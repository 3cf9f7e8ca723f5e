//! One history: a cluster, its users, its operator, faults, and what must hold at the end.

use std::rc::Rc;
use std::time::Duration;

use super::check::{Truth, truth};
use super::clients::Clients;
use super::cluster::Cluster;
use super::cluster_client::ClusterClient;
use super::faults::{self, Fault};
use super::operator::Operator;
use super::watchers::Watchers;
use super::{Bug, below, one_in, pick, watch_check};

const CLIENTS: u64 = 4;
const WATCHERS: u64 = 2;
const ROUNDS: u64 = 10;
/// After which a lease that nobody renews is gone, whoever led when: the longest TTL, what a new leader adds to it, and some time to notice.
const LEASES_END: Duration = Duration::from_secs(12);

/// What a history came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub operations: usize,
    pub acknowledged: usize,
    pub register_operations: usize,
    pub watch_answers: usize,
    pub changes: usize,
    /// What the cluster's client read.
    pub own_reads: usize,
    /// A hash of all steps.
    pub trace: u64,
}

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub bug: Option<Bug>,
    pub faults: &'static [Fault],
    pub rounds: u64,
    pub operator: bool,
    /// As many as the seed says, if none.
    pub members: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { bug: None, faults: &faults::ALL, rounds: ROUNDS, operator: true, members: None }
    }
}

/// Runs the history of a seed. The error says what did not hold.
pub(crate) fn simulate(seed: u64, plan: Plan) -> Result<Report, String> {
    super::run(seed, plan.bug, || history(plan))
}

async fn history(plan: Plan) -> Result<Report, String> {
    let drawn = pick(&[1, 3, 3, 3, 5]);
    let members = plan.members.unwrap_or(drawn);
    let cluster = Rc::new(Cluster::found(members).await?);
    let (clients, watchers, operator) =
        (Rc::<Clients>::default(), Rc::<Watchers>::default(), Rc::<Operator>::default());
    let own = Rc::<ClusterClient>::default();
    let spawn = tokio::task::spawn_local::<std::pin::Pin<Box<dyn Future<Output = Result<(), String>>>>>;
    let mut users = Vec::new();
    for _ in 0..CLIENTS {
        let client = Rc::clone(&clients).run(Rc::clone(&cluster));
        users.push(spawn(Box::pin(async move {
            client.await;
            Ok(())
        })));
    }
    for _ in 0..WATCHERS {
        users.push(spawn(Box::pin(Rc::clone(&watchers).run(Rc::clone(&cluster)))));
    }
    users.push(spawn(Box::pin(Rc::clone(&own).run(Rc::clone(&cluster)))));
    if plan.operator && one_in(2) {
        users.push(spawn(Box::pin(Rc::clone(&operator).run(Rc::clone(&cluster)))));
    }
    for _ in 0..plan.rounds {
        cluster.fault(pick(plan.faults)).await?;
        cluster.none_failed()?;
        tokio::time::sleep(Duration::from_millis(50 + below(1200))).await;
        cluster.restart_some(2).await?;
    }
    clients.stopping.set(true);
    operator.stopping.set(true);
    cluster.heal().await?;
    cluster.settle().await?;
    tokio::time::sleep(LEASES_END).await;
    cluster.settle().await?;
    cluster.note_members().await?;
    watchers.last_revision.set(clients.say_goodbye(&cluster).await?);
    watchers.stopping.set(true);
    own.stopping.set(true);
    for user in users {
        user.await.map_err(|error| format!("a user: {error}"))??;
    }
    Ok(Report { own_reads: own.reads.get(), ..check(&clients, &watchers, &operator)? })
}

fn check(clients: &Clients, watchers: &Watchers, operator: &Operator) -> Result<Report, String> {
    let truth = truth()?;
    let operations = clients.operations.borrow();
    truth.check(&operations)?;
    let register_operations = Truth::check_registers(&operations)?;
    truth.check_leases(&operations)?;
    if !truth.leases().is_empty() {
        return Err(format!("leases {:?} did not end", truth.leases()));
    }
    let sessions = watchers.sessions.borrow();
    for session in sessions.iter() {
        watch_check::check(&truth, session)?;
    }
    Ok(Report {
        operations: operations.len(),
        acknowledged: operations.iter().filter(|operation| matches!(operation.returned, Some((_, Ok(_))))).count(),
        register_operations,
        watch_answers: sessions.iter().map(|session| session.answers.len()).sum(),
        changes: operator.changes.get(),
        own_reads: 0,
        trace: super::traced(),
    })
}
