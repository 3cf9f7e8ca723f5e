//! What the JSON file holds, and the table that is printed.

use serde::Serialize;

use crate::load::Sample;
use crate::server::Peer;

/// All figures of one invocation.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub host: serde_json::Value,
    /// Part of the full size.
    pub scale: f64,
    pub workloads: Vec<Workload>,
    pub values: Vec<Value>,
}

/// A workload on both, and how they compare.
#[derive(Debug, Serialize)]
pub(crate) struct Workload {
    pub name: String,
    pub clients: usize,
    /// Requests a second where the load was that of an open loop.
    pub offered: Option<f64>,
    pub etcd: Vec<Sample>,
    pub keelson: Vec<Sample>,
    /// Ours by etcd's, of the medians.
    pub ratio: Ratio,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratio {
    pub rate: f64,
    pub cpu: f64,
    pub p50: f64,
    pub p99: f64,
    pub written_bytes: f64,
}

/// A figure that is no rate: a time, a size.
#[derive(Debug, Serialize)]
pub(crate) struct Value {
    pub name: String,
    pub unit: &'static str,
    pub etcd: Vec<f64>,
    pub keelson: Vec<f64>,
    pub ratio: f64,
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn ratio(ours: f64, theirs: f64) -> f64 {
    if theirs > 0.0 { ours / theirs } else { 0.0 }
}

impl Workload {
    pub(crate) fn new(
        name: String,
        clients: usize,
        offered: Option<f64>,
        etcd: Vec<Sample>,
        keelson: Vec<Sample>,
    ) -> Self {
        let of = |figure: fn(&Sample) -> f64| {
            let median = |samples: &[Sample]| median(samples.iter().map(figure));
            ratio(median(&keelson), median(&etcd))
        };
        #[expect(clippy::cast_precision_loss, reason = "times of less than hours")]
        let ratio = Ratio {
            rate: of(|sample| sample.rate),
            cpu: of(|sample| sample.cpu_micros_per_operation),
            p50: of(|sample| sample.latency_micros.p50 as f64),
            p99: of(|sample| sample.latency_micros.p99 as f64),
            written_bytes: of(|sample| sample.written_bytes_per_operation),
        };
        Self { name, clients, offered, etcd, keelson, ratio }
    }

    pub(crate) fn median_rate(&self, peer: Peer) -> f64 {
        let samples = if peer == Peer::Etcd { &self.etcd } else { &self.keelson };
        median(samples.iter().map(|sample| sample.rate))
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "times of less than hours")]
        let of = |samples: &[Sample]| {
            let median = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure));
            format!(
                "{:8.0}/s p50 {:6.0} p99 {:7.0} us, cpu {:6.1} us, {:6.0} B",
                median(|sample| sample.rate),
                median(|sample| sample.latency_micros.p50 as f64),
                median(|sample| sample.latency_micros.p99 as f64),
                median(|sample| sample.cpu_micros_per_operation),
                median(|sample| sample.written_bytes_per_operation),
            )
        };
        let Ratio { rate, cpu, p99, written_bytes, .. } = self.ratio;
        format!(
            "{:28} etcd {} | ours {} | rate {rate:.2} cpu {cpu:.2} p99 {p99:.2} bytes {written_bytes:.2}",
            self.name,
            of(&self.etcd),
            of(&self.keelson)
        )
    }
}

impl Value {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, etcd: Vec<f64>, keelson: Vec<f64>) -> Self {
        let ratio = ratio(median(keelson.iter().copied()), median(etcd.iter().copied()));
        Self { name: name.into(), unit, etcd, keelson, ratio }
    }

    pub(crate) fn line(&self) -> String {
        let list = |values: &[f64]| values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" ");
        let Self { name, unit, etcd, keelson, ratio } = self;
        format!("{name:28} etcd {} {unit} | ours {} {unit} | ratio {ratio:.2}", list(etcd), list(keelson))
    }
}
