//! Closed loops for what a server can do, open loops for how long it takes.
//!
//! In a closed loop each client sends its next request when the last is answered, so the server is never idle and the times say
//! little. In an open loop requests are due at a fixed rate, and the time of one that is late because the server was
//! counts from when it was due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tonic::transport::Channel;

use crate::error::Error;
use crate::latency::{Latencies, Percentiles};
use crate::server::{self, Server};
use crate::workload::{Client, Kind};

/// How many clients share a connection at most: kube-apiserver has one for each resource, and many requests on it.
const CLIENTS_PER_CONNECTION: usize = 16;
const MOST_CONNECTIONS: usize = 32;

/// What to load a server with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub name: String,
    pub kind: Kind,
    pub clients: usize,
    pub warm_up: Duration,
    pub window: Duration,
}

/// What one window showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Operations a second.
    pub rate: f64,
    pub latency_micros: Percentiles,
    /// Of the server, a user and system time of all its threads; with several members that of all of them.
    pub cpu_micros_per_operation: f64,
    pub written_bytes_per_operation: f64,
    pub resident_bytes: u64,
}

impl Sample {
    pub(crate) fn new(latencies: &Latencies, elapsed: Duration, before: server::Usage, after: server::Usage) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        let (operations, written) =
            (latencies.total().max(1) as f64, (after.written_bytes - before.written_bytes) as f64);
        Self {
            rate: operations / elapsed.as_secs_f64(),
            latency_micros: latencies.percentiles(),
            cpu_micros_per_operation: (after.cpu_seconds - before.cpu_seconds) * 1e6 / operations,
            written_bytes_per_operation: written / operations,
            resident_bytes: after.resident_bytes,
        }
    }
}

/// Connections to all servers in turn, as many as the clients need.
fn channels(servers: &[Server], clients: usize) -> Vec<Channel> {
    let count = clients.div_ceil(CLIENTS_PER_CONNECTION).clamp(servers.len(), MOST_CONNECTIONS);
    servers.iter().cycle().take(count).map(Server::channel).collect()
}

fn clients(servers: &[Server], plan: &Plan) -> Vec<Client> {
    let channels = channels(servers, plan.clients);
    let numbered = channels.into_iter().cycle().take(plan.clients).zip(0..);
    numbered.map(|(channel, number)| Client::new(channel, plan.kind, number)).collect()
}

/// When the window is open.
#[derive(Debug, Default)]
struct Window {
    open: AtomicBool,
    over: AtomicBool,
}

/// Runs tasks for a while, of which each records what it does, and says what the servers used meanwhile.
pub(crate) async fn measure<F, T>(servers: &[Server], plan: &Plan, tasks: Vec<F>) -> Result<Sample, Error>
where
    F: FnOnce(Recorder) -> T,
    T: Future<Output = Result<Recorder, tonic::Status>> + Send + 'static,
{
    let window = Arc::new(Window::default());
    let running: Vec<_> = tasks
        .into_iter()
        .map(|task| tokio::spawn(task(Recorder { window: Arc::clone(&window), latencies: Latencies::default() })))
        .collect();
    tokio::time::sleep(plan.warm_up).await;
    let (before, began) = (server::total_usage(servers), Instant::now());
    window.open.store(true, Ordering::Relaxed);
    tokio::time::sleep(plan.window).await;
    window.open.store(false, Ordering::Relaxed);
    let (after, elapsed) = (server::total_usage(servers), began.elapsed());
    window.over.store(true, Ordering::Relaxed);
    let mut latencies = Latencies::default();
    for task in running {
        let recorder = task.await.map_err(Error::Worker)?.map_err(Error::refused(&plan.name))?;
        latencies.add(&recorder.latencies);
    }
    if latencies.total() == 0 {
        return Err(Error::Silent(plan.name.clone()));
    }
    Ok(Sample::new(&latencies, elapsed, before, after))
}

/// What a task records into.
#[derive(Debug)]
pub(crate) struct Recorder {
    window: Arc<Window>,
    latencies: Latencies,
}

impl Recorder {
    pub(crate) fn is_over(&self) -> bool {
        self.window.over.load(Ordering::Relaxed)
    }

    /// Notes an answer that came now.
    pub(crate) fn record(&mut self, since: Instant) {
        if self.window.open.load(Ordering::Relaxed) {
            self.latencies.record(since.elapsed());
        }
    }
}

/// All clients as fast as they are answered.
pub(crate) async fn closed(servers: &[Server], plan: &Plan) -> Result<Sample, Error> {
    let tasks = clients(servers, plan).into_iter().map(|mut client| {
        move |mut recorder: Recorder| async move {
            while !recorder.is_over() {
                let began = Instant::now();
                client.run().await?;
                recorder.record(began);
            }
            Ok(recorder)
        }
    });
    measure(servers, plan, tasks.collect()).await
}

/// So many requests a second, spread over all clients.
pub(crate) async fn open(servers: &[Server], plan: &Plan, rate: f64) -> Result<Sample, Error> {
    let first = tokio::time::Instant::now();
    let count = u32::try_from(plan.clients).unwrap_or(u32::MAX);
    let interval = Duration::from_secs_f64(f64::from(count) / rate.max(1.0));
    let tasks = clients(servers, plan).into_iter().zip(0..).map(|(mut client, number)| {
        move |mut recorder: Recorder| async move {
            let mut due = first + interval * number / count;
            while !recorder.is_over() {
                let late = tokio::time::Instant::now() >= due;
                tokio::time::sleep_until(due).await;
                // A timer is a millisecond coarse. That is the generator's doing, not the server's.
                let began = if late { due.into_std() } else { Instant::now() };
                client.run().await?;
                recorder.record(began);
                due += interval;
            }
            Ok(recorder)
        }
    });
    measure(servers, plan, tasks.collect()).await
}
