//! openraft's own suite for storage, on a disk in memory.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::machine::Machine;
use super::model::Model;
use super::storage::LogStorage;
use super::{Timing, TypeConfig, config};
use crate::checkpoint::{Applied, Checkpoint, writer::Writer};
use crate::disk::fake::FakeDisk;
use crate::log::{Log, Options};
use crate::random::{Random, SystemRandom};

struct Builder;

impl StoreBuilder<TypeConfig, LogStorage, Machine<Model>> for Builder {
    async fn build(&self) -> Result<((), LogStorage, Machine<Model>), StorageError<TypeConfig>> {
        let disk = Arc::new(FakeDisk::new());
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let options = Options { segment_size: 64 << 10, cache_bytes: 256, store_id: 1 };
        let checkpoint = Arc::new(Checkpoint::open(disk.as_ref(), 1).unwrap());
        let log = Log::open(disk, &random, options, Box::new(|_| {})).unwrap();
        let writer = Arc::new(Writer::start(checkpoint).unwrap());
        let machine = Machine::new(Model::default(), writer, &Applied::default()).unwrap();
        Ok(((), LogStorage::new(log), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_openrafts_storage_suite() {
    Suite::test_all(Builder).await.unwrap();
}

#[test]
fn etcds_default_times_are_valid_for_consensus() {
    let timing = Timing {
        heartbeat_interval: std::time::Duration::from_millis(100),
        election_timeout: std::time::Duration::from_secs(1),
    };
    let config = config(timing).unwrap();
    assert_eq!(config.enable_leader_restore, Some(false));
    assert_eq!(config.allow_log_reversion, Some(false));
}
