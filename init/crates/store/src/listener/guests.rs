//! Connections whose other side has shown a certificate, for as long as they last.
//!
//! Whom to believe can change while they are open: an authority is exchanged, a certificate is revoked. Whoever would not be let in any
//! more is shown out. That a certificate runs out changes nothing: it was good when it was shown, and the next one is on its way.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task;

use futures::task::AtomicWaker;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::Doorman;

/// All of one listener.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests(Arc<Mutex<Vec<Weak<Guest>>>>);

#[derive(Debug)]
pub(super) struct Guest {
    /// The end entity's first.
    chain: Vec<CertificateDer<'static>>,
    shown: UnixTime,
    dismissed: AtomicBool,
    reader: AtomicWaker,
}

impl Guests {
    /// Enters one that has been let in.
    pub(super) fn add(&self, chain: Vec<CertificateDer<'static>>) -> Arc<Guest> {
        let shown = UnixTime::now();
        let guest = Arc::new(Guest { chain, shown, dismissed: AtomicBool::new(false), reader: AtomicWaker::new() });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|guest| guest.strong_count() > 0);
        }
        all.push(Arc::downgrade(&guest));
        guest
    }

    /// Shows those out whom the doorman would not let in, and says how many.
    pub(super) fn review(&self, doorman: &Doorman) -> usize {
        let all: Vec<_> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|guest| guest.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        all.iter().filter(|guest| guest.is_to_go(doorman)).count()
    }
}

impl Guest {
    /// Whether it is shown out by this.
    pub(super) fn is_to_go(&self, doorman: &Doorman) -> bool {
        if self.dismissed.load(Ordering::Acquire) || doorman.admits(&self.chain, self.shown) {
            return false;
        }
        self.dismissed.store(true, Ordering::Release);
        self.reader.wake();
        true
    }

    /// Whether it may go on; if not later, the task is woken.
    pub(super) fn check(&self, context: &task::Context<'_>) -> io::Result<()> {
        self.reader.register(context.waker());
        if self.dismissed.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its certificate is believed no more"));
        }
        Ok(())
    }
}
