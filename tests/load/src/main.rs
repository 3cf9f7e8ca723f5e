//! Measures keelson-store beside etcd: one member, then three, the same load on both in turn.
//!
//! A machine's speed changes by the minute, so each workload runs on one and then on the other, several times, and what counts is the ratio
//! of the medians. The load comes from this process, over loopback, under mutual TLS; both servers write to the same disk and sync as they do in use.
#![forbid(unsafe_code)]

mod child;
mod error;
mod extras;
mod figures;
mod latency;
mod load;
mod server;
mod single;
mod tls;
mod trio;
mod watch;
mod workload;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::error::Error;
use crate::figures::{Figures, Value, Workload};
use crate::server::Programs;
use crate::tls::Authority;

#[derive(Debug, Parser)]
struct Options {
    /// keelson-store
    #[arg(long)]
    store: PathBuf,
    /// etcd
    #[arg(long)]
    etcd: PathBuf,
    /// Folder for the servers' data, on the disk that is to be measured
    #[arg(long)]
    folder: PathBuf,
    /// File for the figures
    #[arg(long)]
    json: PathBuf,
    /// What is known of the machine, as JSON
    #[arg(long, default_value = "null")]
    host: String,
    /// Part of the full size, of windows, keys and repetitions
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Windows for each workload on each side
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only workloads whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// A run.
#[derive(Debug)]
pub(crate) struct Bench {
    programs: Programs,
    authority: Authority,
    folder: PathBuf,
    json: PathBuf,
    scale: f64,
    rounds: usize,
    only: Vec<String>,
    figures: Figures,
}

impl Bench {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// A part of a full-size count, and no less than is of use.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few millions"
    )]
    pub(crate) fn scaled(&self, full: u64, least: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(least)
    }

    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(10).mul_f64(self.scale).max(Duration::from_secs(2))
    }

    pub(crate) fn warm_up(&self) -> Duration {
        self.window() / 5
    }

    pub(crate) fn add(&mut self, workload: Workload) -> Result<(), Error> {
        say(&workload.line());
        self.figures.workloads.push(workload);
        self.save()
    }

    pub(crate) fn add_value(&mut self, value: Value) -> Result<(), Error> {
        say(&value.line());
        self.figures.values.push(value);
        self.save()
    }

    /// After each figure: what was measured is not lost when a later one fails.
    fn save(&self) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(&self.figures).map_err(Error::Encode)?;
        std::fs::write(&self.json, text).map_err(Error::file("write", &self.json))
    }
}

fn say(text: &str) {
    // Nobody is left to be told that standard error is closed.
    _ = writeln!(std::io::stderr(), "{text}");
}

fn main() -> ExitCode {
    match child::become_other(std::env::args_os().skip(1)).and_then(|()| run(Options::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("keelson-load: {error}");
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            say(&text);
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Error> {
    let Options { store, etcd, folder, json, host, scale, rounds, only } = options;
    std::fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
    let place = tempfile::TempDir::new_in(&folder).map_err(Error::file("make a folder in", &folder))?;
    let runtime = tokio::runtime::Runtime::new().map_err(Error::Runtime)?;
    let mut bench = Bench {
        programs: Programs { store, etcd },
        authority: Authority::create(place.path())?,
        folder: place.path().to_owned(),
        json,
        scale,
        rounds: rounds.max(1),
        only,
        figures: Figures { host: serde_json::from_str(&host).map_err(Error::Encode)?, scale, ..Figures::default() },
    };
    runtime.block_on(async {
        single::run(&mut bench).await?;
        trio::run(&mut bench).await
    })
}
