//! The thread of consensus.
//!
//! Between a proposal and its answer there are consensus, the log's writer, the disk, consensus again and apply. They run on one thread: waking another for
//! each step costs more than the step, and on a busy machine each waits for its turn. The thread waits for the disk itself. What it
//! would do meanwhile could not be answered before the disk is done; what arrives meanwhile is the next batch. A member whose disk stalls
//! falls silent, as one should that cannot do its part.
//!
//! Connections are served elsewhere, with the reads and the watches.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// It ends with the value, without being waited for: a disk that hangs would hold it up.
#[derive(Debug)]
pub(crate) struct Thread {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Thread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new().name("consensus".to_owned()).spawn(move || {
            // Stopped by a message or by the loss of who would send it.
            drop(runtime.block_on(stopped));
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _stop: stop })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}
