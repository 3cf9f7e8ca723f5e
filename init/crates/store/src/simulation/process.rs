//! Whose a task is.
//!
//! Members share a thread, so a task must say which of them it belongs to: then one can be stopped in the middle of everything, as by SIGSTOP or a
//! hypervisor, while time goes on for the others. Its clock has jumped when it goes on, and all its timers are late at once. Its disk
//! may be slow, too.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::member::MemberId;

thread_local! {
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// A member's process.
#[derive(Clone, Debug)]
pub(crate) struct Process(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    member: MemberId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    parked: Vec<Waker>,
    /// What its disk takes for a batch at most.
    slowest_micros: u64,
}

impl Process {
    pub(crate) fn new(member: MemberId) -> Self {
        Self(Arc::new(Shared { member, state: Mutex::default() }))
    }

    /// That of the task that runs.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(crate) fn member(&self) -> MemberId {
        self.0.member
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
    }

    pub(crate) fn go_on(&self) {
        let parked = {
            let mut state = self.lock();
            state.stopped = false;
            std::mem::take(&mut state.parked)
        };
        parked.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn set_slowest_micros(&self, micros: u64) {
        self.lock().slowest_micros = micros;
    }

    pub(crate) fn slowest_micros(&self) -> u64 {
        self.lock().slowest_micros
    }

    /// True if it is stopped; then it is woken when it goes on.
    fn parks(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if state.stopped && !state.parked.iter().any(|parked| parked.will_wake(waker)) {
            state.parked.push(waker.clone());
        }
        state.stopped
    }

    /// Has a future run as one of its tasks.
    pub(crate) fn scope<F: Future>(&self, future: F) -> Scoped<F> {
        Scoped { process: Some(self.clone()), future: Box::pin(future) }
    }
}

/// The future of a task that belongs to whoever makes it.
pub(crate) fn inherit<F: Future>(future: F) -> Scoped<F> {
    Scoped { process: Process::current(), future: Box::pin(future) }
}

#[derive(Debug)]
pub(crate) struct Scoped<F> {
    process: Option<Process>,
    future: Pin<Box<F>>,
}

/// Puts back what was, also after a panic.
struct Restore(Option<Process>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.process.as_ref().is_some_and(|process| process.parks(context.waker())) {
            return Poll::Pending;
        }
        let _restore = Restore(CURRENT.replace(this.process.clone()));
        this.future.as_mut().poll(context)
    }
}
