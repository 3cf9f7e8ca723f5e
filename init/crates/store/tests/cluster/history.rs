//! Clients of a cluster under faults, what each was answered, and whether all of it could have happened.
//!
//! Registers are put and read one key at a time, by so few operations on each that a real checker looks at every order they could have had. Keys of
//! the journal are put once: each that was acknowledged must be there at the end, and a watch must have told all that are there, in order and once.
//! No answer may name a revision below one that was named before it was asked for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::kv_client::KvClient;
use keelson_etcd_api::etcdserverpb::watch_client::WatchClient;
use keelson_etcd_api::etcdserverpb::watch_request::RequestUnion;
use keelson_mutation::Random;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use self::linearizability::{Action, Operation, is_linearizable};
use crate::harness::{Cluster, REQUEST, put};
use crate::waiting::wait_until;

#[path = "../../src/simulation/linearizability.rs"]
mod linearizability;

const CLIENTS: usize = 8;
/// Registers that are in use at a time, and operations on each, of which the checker takes 128.
const OPEN: usize = 3;
const OPERATIONS: usize = 110;
/// How long a client waits for an answer, and a watch for an event, before it goes elsewhere.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two requests of a client: a history that is remembered must not grow faster than it is worth.
const PAUSE: Duration = Duration::from_millis(4);
/// The journal's last key, in the order of time and of keys.
const LAST: &str = "journal/end";

/// What clients did, shared by all of them.
#[derive(Default)]
struct Shared {
    /// Orders calls and returns.
    clock: AtomicU64,
    /// The newest revision that anybody was told.
    revision: AtomicI64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
    registers: Mutex<Registers>,
    journal: Mutex<BTreeSet<String>>,
    wrong: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Registers {
    histories: Vec<Vec<Operation>>,
    /// Those that are in use.
    open: Vec<usize>,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    watch: JoinHandle<Vec<(i64, String)>>,
}

fn register(number: usize) -> String {
    format!("register/{number:08}")
}

fn prefix(prefix: &str) -> (bytes::Bytes, bytes::Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    (prefix.to_owned().into(), end.into())
}

fn number_of(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// An answer that came in time.
async fn in_time<T>(answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Option<T> {
    let answer = tokio::time::timeout(PATIENCE, answer).await.ok()?;
    answer.ok().map(tonic::Response::into_inner)
}

impl Shared {
    /// From 1 on: 0 is what a register begins with.
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst) + 1
    }

    /// Notes the revision that an answer names; nothing that was named before the call may be ahead of it.
    fn answered(&self, what: &str, before: i64, header: Option<pb::ResponseHeader>, is_write: bool) {
        let revision = header.unwrap().revision;
        self.revision.fetch_max(revision, SeqCst);
        if revision < before + i64::from(is_write) {
            let text = format!("{what} is answered at {revision}, and {before} was told before it was asked");
            self.wrong.lock().unwrap().push(text);
        }
        self.acknowledged.fetch_add(1, SeqCst);
    }

    /// Begins an operation on one of the registers in use, and says which: its time is a value that nobody else writes.
    fn begin(&self, random: &mut Random, write: bool) -> (usize, usize, u64) {
        let mut registers = self.registers.lock().unwrap();
        let Registers { histories, open } = &mut *registers;
        while open.len() < OPEN {
            open.push(histories.len());
            histories.push(Vec::new());
        }
        let place = random.below(OPEN);
        let at = open[place];
        let called = self.tick();
        let action = if write { Action::Write(called) } else { Action::Read(0) };
        histories[at].push(Operation { action, called, returned: None });
        let operation = histories[at].len() - 1;
        if operation + 1 == OPERATIONS {
            open.swap_remove(place);
        }
        (at, operation, called)
    }

    fn end(&self, at: usize, operation: usize, action: Action) {
        let returned = self.tick();
        let mut registers = self.registers.lock().unwrap();
        let operation = &mut registers.histories[at][operation];
        (operation.action, operation.returned) = (action, Some(returned));
    }

    async fn write_register(&self, kv: &mut KvClient<Channel>, random: &mut Random) -> bool {
        let before = self.revision.load(SeqCst);
        let (at, operation, value) = self.begin(random, true);
        let Some(answer) = in_time(kv.put(put(&register(at), value.to_string()))).await else { return false };
        self.end(at, operation, Action::Write(value));
        self.answered("a put", before, answer.header, true);
        true
    }

    async fn read_register(&self, kv: &mut KvClient<Channel>, random: &mut Random) -> bool {
        let before = self.revision.load(SeqCst);
        let (at, operation, _) = self.begin(random, false);
        let request = pb::RangeRequest { key: register(at).into(), ..Default::default() };
        let Some(answer) = in_time(kv.range(request)).await else { return false };
        let value = answer.kvs.first().map_or(0, |kv| number_of(&kv.value));
        self.end(at, operation, Action::Read(value));
        self.answered("a read", before, answer.header, false);
        true
    }

    async fn write_journal(&self, kv: &mut KvClient<Channel>, key: String) -> bool {
        let before = self.revision.load(SeqCst);
        let Some(answer) = in_time(kv.put(put(&key, ""))).await else { return false };
        self.answered("a put", before, answer.header, true);
        self.journal.lock().unwrap().insert(key);
        true
    }

    /// One client, which asks one member as long as that answers, and now and then another.
    async fn client(self: Arc<Self>, number: usize, mut members: Vec<KvClient<Channel>>) {
        let mut random = Random::new(number as u64);
        let mut at = number;
        for serial in 0_u64.. {
            if self.stop.load(SeqCst) {
                return;
            }
            let count = members.len();
            let kv = &mut members[at % count];
            let answered = match random.below(4) {
                0 => self.write_journal(kv, format!("journal/{number}/{serial:08}")).await,
                1 => self.write_register(kv, &mut random).await,
                _ => self.read_register(kv, &mut random).await,
            };
            if !answered || random.below(16) == 0 {
                at += 1;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// All puts of the journal with their revisions, up to the last key: told by one stream after another, each at the next member.
async fn watch(mut members: Vec<WatchClient<Channel>>) -> Vec<(i64, String)> {
    let mut told = Vec::new();
    for at in 0.. {
        let count = members.len();
        follow(&mut members[at % count], &mut told).await;
        if told.last().is_some_and(|(_, key)| key == LAST) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    told
}

/// Takes what a stream tells from where the last one ended, until it is silent or has told the last key.
async fn follow(member: &mut WatchClient<Channel>, told: &mut Vec<(i64, String)>) -> Option<()> {
    let (key, range_end) = prefix("journal/");
    let start_revision = told.last().map_or(1, |(revision, _)| revision + 1);
    let create = pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
    let (requests, queue) = tokio::sync::mpsc::channel(1);
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(request).await.ok()?;
    let mut answers = in_time(member.watch(ReceiverStream::new(queue))).await?;
    loop {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.ok()?.ok()??;
        for kv in answer.events.into_iter().filter_map(|event| event.kv) {
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            let is_last = key == LAST;
            told.push((kv.mod_revision, key));
            if is_last {
                return Some(());
            }
        }
    }
}

/// Pairs of a prefix as a member reads them, by key.
async fn read_all(kv: &mut KvClient<Channel>, of: &str) -> Vec<keelson_etcd_api::mvccpb::KeyValue> {
    let (key, range_end) = prefix(of);
    let request = pb::RangeRequest { key, range_end, ..Default::default() };
    tokio::time::timeout(REQUEST, kv.range(request)).await.unwrap().unwrap().into_inner().kvs
}

/// What is there at the end and what a watch told, against what was acknowledged.
fn check_journal(
    acknowledged: &BTreeSet<String>,
    listed: &[(i64, String)],
    told: &[(i64, String)],
) -> Result<(), String> {
    let keys: BTreeSet<&String> = listed.iter().map(|(_, key)| key).collect();
    if let Some(lost) = acknowledged.iter().find(|key| !keys.contains(key)) {
        return Err(format!("{lost} was acknowledged and is gone"));
    }
    let Some(((end, _), told)) = told.split_last() else { return Err("the watch told nothing".to_owned()) };
    let mut expected: Vec<&(i64, String)> = listed.iter().filter(|(revision, _)| revision < end).collect();
    expected.sort();
    match expected.iter().zip(told).find(|(expected, told)| **expected != *told) {
        Some((expected, told)) => Err(format!("the watch told {told:?}, and {expected:?} is what came next")),
        None if expected.len() != told.len() => Err(format!("{} were put and {} told", expected.len(), told.len())),
        None => Ok(()),
    }
}

impl Load {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let shared = Arc::<Shared>::default();
        let client = |number| {
            let members = cluster.members.iter().map(crate::harness::Member::kv).collect();
            tokio::spawn(Arc::clone(&shared).client(number, members))
        };
        let clients = (0..CLIENTS).map(client).collect();
        let members = cluster.members.iter().map(crate::harness::Member::watch).collect();
        Self { shared, clients, watch: tokio::spawn(watch(members)) }
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.acknowledged.load(SeqCst)
    }

    pub(crate) async fn progress(&self, what: &str) {
        let before = self.answered();
        wait_until(what, async || self.answered() >= before + 100).await;
    }

    /// Ends the clients of a cluster that is whole again, and checks what they were told.
    pub(crate) async fn end(self, cluster: &Cluster) {
        let Self { shared, clients, watch } = self;
        shared.stop.store(true, SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        let mut first = cluster.members[0].kv();
        wait_until("the journal's end", async || in_time(first.put(put(LAST, ""))).await.is_some()).await;
        let told = tokio::time::timeout(REQUEST, watch).await.expect("the watch tells the last key").unwrap();
        for member in &cluster.members {
            let mut kv = member.kv();
            shared.read_registers(&mut kv).await;
            let listed = read_all(&mut kv, "journal/").await;
            let listed: Vec<_> =
                listed.into_iter().map(|kv| (kv.mod_revision, String::from_utf8(kv.key.to_vec()).unwrap())).collect();
            let checked = check_journal(&shared.journal.lock().unwrap(), &listed, &told);
            assert_eq!(checked, Ok(()), "{}", member.name);
        }
        shared.check();
    }
}

impl Shared {
    /// The last word on each register.
    async fn read_registers(&self, kv: &mut KvClient<Channel>) {
        let called = self.tick();
        let pairs = read_all(kv, "register/").await;
        let returned = Some(self.tick());
        let values: std::collections::HashMap<_, _> =
            pairs.iter().map(|kv| (kv.key.clone(), number_of(&kv.value))).collect();
        for (number, history) in self.registers.lock().unwrap().histories.iter_mut().enumerate() {
            let value = values.get(register(number).as_bytes()).copied().unwrap_or(0);
            history.push(Operation { action: Action::Read(value), called, returned });
        }
    }

    fn check(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let registers = self.registers.lock().unwrap();
        let mut operations = 0;
        for (number, history) in registers.histories.iter().enumerate() {
            // A read without an answer says nothing.
            let said =
                |operation: &&Operation| operation.returned.is_some() || matches!(operation.action, Action::Write(_));
            let history: Vec<Operation> = history.iter().filter(said).copied().collect();
            operations += history.len();
            assert!(is_linearizable(&history), "{} is not linearizable: {history:?}", register(number));
        }
        println!(
            "{operations} operations on {} registers, {} keys of the journal",
            registers.histories.len(),
            self.journal.lock().unwrap().len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_told_wrongly_is_noticed() {
        let keys = |keys: &[i64]| -> Vec<(i64, String)> { keys.iter().map(|key| (*key, format!("k{key}"))).collect() };
        let acknowledged: BTreeSet<String> = ["k2", "k3"].map(str::to_owned).into();
        let listed = keys(&[2, 3, 5, 7, 9]);
        let check = |listed: &[(i64, String)], told: &[i64]| check_journal(&acknowledged, listed, &keys(told));
        // 9 was put behind the end, which is 7.
        assert_eq!(check(&listed, &[2, 3, 5, 7]), Ok(()));
        for told in [&[2, 5, 7][..], &[2, 3, 3, 5, 7], &[3, 2, 5, 7], &[2, 3, 7], &[2, 3, 4, 5, 7], &[]] {
            assert!(check(&listed, told).is_err(), "{told:?}");
        }
        assert!(check(&keys(&[2, 5, 7]), &[2, 5, 7]).is_err(), "an acknowledged key is gone");
    }

    #[test]
    fn an_answer_from_the_past_is_noticed() {
        let shared = Shared::default();
        let header = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
        shared.answered("a put", 0, header(5), true);
        shared.answered("a read", 5, header(5), false);
        assert!(shared.wrong.lock().unwrap().is_empty());
        shared.answered("a read", 5, header(4), false);
        shared.answered("a put", 5, header(5), true);
        assert_eq!(shared.wrong.lock().unwrap().len(), 2);
    }
}
