//! Asking all disks at once, each by a thread of its own.
//!
//! A disk that does not answer keeps its thread: that sleeps in the kernel, and nothing wakes it. It keeps nobody from hearing the others, nor
//! this process from answering. What its silence means is for whoever asks to say.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::inventory::{self, Disk, Places};

/// How long what the others have said waits for a disk that says nothing. A disk that still has to spin up has been waited for by the
/// kernel, which has read its size and its partitions by then.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// How long one round waits for answers.
const ROUND: Duration = Duration::from_millis(20);

/// What disks were asked, and what they have said.
pub(crate) struct Asked<T> {
    question: Arc<dyn Fn(&Disk) -> T + Send + Sync>,
    disks: Vec<Conversation<T>>,
}

struct Conversation<T> {
    disk: Disk,
    asked: Instant,
    /// None behind the answer.
    pending: Option<Receiver<T>>,
    /// The last one.
    answer: Option<T>,
}

impl<T> Conversation<T> {
    fn is_silent(&self) -> bool {
        self.answer.is_none()
    }
}

impl<T> fmt::Debug for Asked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("disks", &self.disks.len()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Asked<T> {
    pub(crate) fn new(question: impl Fn(&Disk) -> T + Send + Sync + 'static) -> Self {
        Self { question: Arc::new(question), disks: Vec::new() }
    }

    /// One round: forgets the disks that are gone or have changed, asks those that are new and those of whose answers `again` says so, and
    /// waits a moment for what they say. An answer stands until the next one.
    pub(crate) fn ask(&mut self, disks: &[Disk], again: impl Fn(&T) -> bool) {
        let mut known = std::mem::take(&mut self.disks);
        for disk in disks {
            let conversation = match known.iter().position(|known| known.disk == *disk) {
                Some(place) => self.go_on(known.swap_remove(place), &again),
                None => Conversation {
                    disk: disk.clone(),
                    asked: Instant::now(),
                    pending: Some(self.put(disk)),
                    answer: None,
                },
            };
            self.disks.push(conversation);
        }
        let end = Instant::now() + ROUND;
        for conversation in &mut self.disks {
            let Some(pending) = &conversation.pending else { continue };
            if let Ok(answer) = pending.recv_timeout(end.saturating_duration_since(Instant::now())) {
                conversation.answer = Some(answer);
                conversation.pending = None;
            }
        }
    }

    fn go_on(&self, mut known: Conversation<T>, again: impl Fn(&T) -> bool) -> Conversation<T> {
        if known.pending.is_none() && known.answer.as_ref().is_some_and(again) {
            known.asked = Instant::now();
            known.pending = Some(self.put(&known.disk));
        }
        known
    }

    fn put(&self, disk: &Disk) -> Receiver<T> {
        let (tell, pending) = mpsc::sync_channel(1);
        let (question, disk) = (Arc::clone(&self.question), disk.clone());
        // Without memory for a thread there is no answer: such a disk is as silent as one that hangs.
        let _ = thread::Builder::new().spawn(move || {
            // Nobody waits any more: too late.
            let _ = tell.send(question(&disk));
        });
        pending
    }

    /// The disks as they were named last, each with its answer if it has given one.
    pub(crate) fn disks(&self) -> impl Iterator<Item = (&Disk, Option<&T>)> {
        self.disks.iter().map(|conversation| (&conversation.disk, conversation.answer.as_ref()))
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = &T> {
        self.disks.iter().filter_map(|conversation| conversation.answer.as_ref())
    }

    /// Names of those that have never answered.
    pub(crate) fn silent(&self) -> Vec<&str> {
        let silent = self.disks.iter().filter(|conversation| conversation.is_silent());
        silent.map(|conversation| conversation.disk.name.as_str()).collect()
    }

    /// Whether none is silent but those that have been for so long.
    pub(crate) fn has_waited(&self, limit: Duration) -> bool {
        self.disks.iter().filter(|one| one.is_silent()).all(|one| one.asked.elapsed() >= limit)
    }
}

/// The answer of the first disk that has one. For questions to which at most one disk has an answer.
pub(crate) fn first<T: Clone + Send + 'static>(
    places: &Places,
    question: impl Fn(&Disk) -> Option<T> + Send + Sync + 'static,
) -> Option<T> {
    let disks = inventory::disks(places);
    let mut asked = Asked::new(question);
    loop {
        asked.ask(&disks, |_| false);
        let found = asked.answers().flatten().next().cloned();
        if found.is_some() || asked.has_waited(SILENCE) {
            return found;
        }
    }
}

/// The answers of all disks that give one, in the disks' order.
pub(crate) fn all<T: Clone + Send + 'static>(
    places: &Places,
    question: impl Fn(&Disk) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let disks = inventory::disks(places);
    let mut asked = Asked::new(question);
    loop {
        asked.ask(&disks, |_| false);
        if asked.has_waited(SILENCE) {
            return asked.answers().cloned().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::inventory::tests::Machine;
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn machine() -> Machine {
        let machine = Machine::new();
        machine.add("vda", GIB);
        machine.add("vdb", 2 * GIB);
        machine
    }

    fn silent_unless(answers: &str) -> impl Fn(&Disk) -> String + Send + Sync + use<> {
        let answers = answers.to_owned();
        move |disk| {
            if disk.name != answers {
                loop {
                    thread::park();
                }
            }
            disk.name.clone()
        }
    }

    #[test]
    fn silent_disk_keeps_nobody_from_hearing_the_others() {
        let machine = machine();
        let disks = inventory::disks(&machine.places);
        let mut asked = Asked::new(silent_unless("vdb"));
        while asked.answers().next().is_none() {
            asked.ask(&disks, |_| false);
        }
        assert_eq!(asked.silent(), ["vda"]);
        assert_eq!(asked.answers().collect::<Vec<_>>(), ["vdb"]);
        assert!(asked.has_waited(Duration::ZERO) && !asked.has_waited(SILENCE));
        asked.ask(&disks[1..], |_| false);
        assert!(asked.has_waited(SILENCE), "the silent one is gone");
    }

    #[test]
    fn disk_is_asked_once_unless_it_has_changed_or_is_to_be_asked_again() {
        static QUESTIONS: AtomicUsize = AtomicUsize::new(0);
        let machine = machine();
        let mut asked = Asked::new(|_| QUESTIONS.fetch_add(1, Ordering::SeqCst));
        let mut ask = |again: bool| {
            let disks = inventory::disks(&machine.places);
            while {
                asked.ask(&disks, |_| again);
                !asked.silent().is_empty()
            } {}
            asked.answers().copied().max()
        };
        assert_eq!((ask(false), ask(false)), (Some(1), Some(1)));
        machine.set("vdb", "size", 512);
        assert_eq!(ask(false), Some(2));
        ask(true);
        while ask(false) < Some(4) {}
        assert_eq!(QUESTIONS.load(Ordering::SeqCst), 5);
    }

    #[test]
    fn one_answer_is_enough_where_only_one_disk_can_have_it() {
        let machine = machine();
        let question = silent_unless("vdb");
        let start = Instant::now();
        assert_eq!(first(&machine.places, move |disk| Some(question(disk))), Some("vdb".to_owned()));
        assert!(start.elapsed() < SILENCE);
        assert_eq!(all(&machine.places, |disk| disk.name.clone()), ["vda", "vdb"]);
    }
}
