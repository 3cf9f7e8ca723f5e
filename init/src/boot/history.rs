//! The boot history, as PID 1 sees it: what it tells keelson-exec of this boot, and how it words what is known of earlier ones.
//!
//! PID 1 writes no file on STATE. While services run, a job is started for each update and not waited for; at most one is
//! under way, so that a disk that hangs costs one process and no update of the loop.

use std::time::Duration;

use keelson_control::{BootDetails, BootPhase, BootRecord as Shown};
use keelson_init::supervisor::short;
use keelson_job::{BootRecord, Cause, Progress, Request};
use keelson_sys::clock;

use super::job::{Background, JobError};
use super::{Facts, Span};
use crate::vitals::Vitals;

/// How often the record and the clock are saved while nothing happens: the clock floor after a power cut is so old at most.
const INTERVAL: Duration = Duration::from_mins(5);

/// After so many boots in a row that failed by themselves, the machine is no longer rebooted for a failure.
pub(crate) const FAILED_BOOTS_MAX: u32 = 3;

/// The phase in which services run, the last there is.
const SERVICES: &str = "services";

pub(crate) fn progress(timeline: &[Span]) -> Progress {
    Progress {
        at: clock::wall().as_secs(),
        up_milliseconds: milliseconds(clock::since_boot()),
        phase: timeline.last().map(|span| span.name.clone()).unwrap_or_default(),
        phases: timeline
            .iter()
            .map(|span| (span.name.clone(), milliseconds(span.start), milliseconds(span.length)))
            .collect(),
        ..Progress::default()
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn failed(history: &[BootRecord]) -> u32 {
    BootRecord::failed_in_a_row(history)
}

/// Services are started from here on.
pub(crate) fn reached_services(facts: &mut Facts, vitals: &mut Vitals) {
    let start = clock::since_boot();
    facts.timeline.push(Span { name: SERVICES.to_owned(), start, length: Duration::ZERO });
    vitals.reached(&facts.timeline);
}

/// Keeps the record on STATE up to date from the event loop.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    job: Option<Background>,
    /// Something changed that is not on the way yet.
    news: bool,
    /// When it is written next, news or not.
    due: Duration,
}

impl Keeper {
    pub(crate) fn news(&mut self) {
        self.news = true;
    }

    /// Called from the loop about once a second. Returns a failure once, when it is seen.
    pub(crate) fn beat(&mut self, vitals: &mut Vitals, now: Duration) -> Result<(), JobError> {
        if let Some(job) = &mut self.job {
            // One that never answers keeps its place: nothing more is written, and nothing piles up.
            let Some(outcome) = job.answer() else { return Ok(()) };
            self.job = None;
            outcome?;
        }
        if !self.news && now < self.due {
            return Ok(());
        }
        self.news = false;
        self.due = now + INTERVAL;
        self.job = Some(Background::start(&Request::KeepState { progress: vitals.progress_now() })?);
        Ok(())
    }
}

/// The history for the control socket, the present boot last.
pub(crate) fn shown(facts: &Facts, progress: &Progress) -> Vec<BootDetails> {
    let present = BootRecord { progress: progress.clone(), ..facts.present.clone() };
    let all: Vec<&BootRecord> = facts.history.iter().chain([&present]).collect();
    all.iter()
        .zip(all.iter().skip(1).map(Some).chain([None]))
        .map(|(record, next)| BootDetails {
            boot: show(record, next.copied()),
            image: record.image.clone(),
            phases: record.progress.phases.iter().map(phase).collect(),
        })
        .collect()
}

fn phase((name, start, length): &(String, u64, u64)) -> BootPhase {
    BootPhase { name: name.clone(), start_milliseconds: *start, milliseconds: *length }
}

fn show(record: &BootRecord, next: Option<&BootRecord>) -> Shown {
    let progress = &record.progress;
    let is_over = next.is_some();
    let services = progress.phases.iter().find(|(name, ..)| name == SERVICES);
    Shown {
        number: record.number,
        boot_id: record.boot_id.clone(),
        version: record.version.clone(),
        started_unix_seconds: record.booted_at,
        good: progress.good,
        ended: next.and_then(|next| end(record, next)),
        ended_unix_seconds: record
            .end
            .as_ref()
            .map(|end| end.at)
            .or((is_over && progress.at > 0).then_some(progress.at)),
        phase: progress.phase.clone(),
        up_seconds: progress.up_milliseconds / 1000,
        services_started_after_milliseconds: services.map(|(_, start, _)| *start),
        last_messages: next.map(|next| next.before.last_messages.clone()).unwrap_or_default(),
    }
}

/// How a boot ended, if anything tells: itself, or what the boot after it found.
fn end(record: &BootRecord, next: &BootRecord) -> Option<String> {
    if let Some(end) = &record.end {
        let by = match end.cause {
            Cause::Asked => "",
            Cause::Ladder => " by the supervisor",
            Cause::Failure => " by PID 1",
        };
        return Some(format!("{}{by}: {}", end.action, short(end.reason.clone())));
    }
    let mut words = Vec::new();
    let ending = record.progress.ending.clone().map(short);
    words.extend(ending.map(|ending| format!("{ending}, which did not come about in order")));
    words.extend(next.progress.watchdog.clone());
    if !next.before.last_messages.is_empty() {
        words.push("the kernel died".to_owned());
    }
    (!words.is_empty()).then(|| words.join("; "))
}

/// For the console's line of the boot after it.
pub(crate) fn describe(previous: &BootRecord, present: &BootRecord) -> String {
    match end(previous, present) {
        Some(end) => format!("ended: {end}"),
        None => "ended without a shutdown: a crash, a reset or a power cut".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use keelson_control::{PACKET_MAX, Packet, Response};
    use keelson_job::{BootEnd, Death};

    use super::*;

    fn record(number: u64) -> BootRecord {
        let progress = Progress { at: 500, up_milliseconds: 61_500, phase: SERVICES.to_owned(), ..Progress::default() };
        BootRecord { number, booted_at: 400, progress, ..BootRecord::default() }
    }

    #[test]
    fn ordered_end_is_in_the_boots_own_words() {
        let end =
            BootEnd { at: 600, action: "reboot".to_owned(), reason: "kubelet fails".to_owned(), cause: Cause::Ladder };
        let shown = show(&BootRecord { end: Some(end), ..record(1) }, Some(&record(2)));
        assert_eq!(shown.ended.as_deref(), Some("reboot by the supervisor: kubelet fails"));
        assert_eq!((shown.ended_unix_seconds, shown.up_seconds), (Some(600), 61));
    }

    #[test]
    fn boot_that_ended_without_a_word_is_told_of_by_the_next() {
        let mut next = record(2);
        assert_eq!(end(&record(1), &next), None);
        assert_eq!(show(&record(1), Some(&next)).ended_unix_seconds, Some(500), "when it was last known to run");
        next.progress.watchdog = Some("reset by the watchdog".to_owned());
        assert_eq!(end(&record(1), &next).as_deref(), Some("reset by the watchdog"));
        next.before = Death { last_messages: vec!["Kernel panic".to_owned()] };
        let mut cut = record(1);
        cut.progress.ending = Some("reboot: asked".to_owned());
        let words = "reboot: asked, which did not come about in order; reset by the watchdog; the kernel died";
        assert_eq!(end(&cut, &next).as_deref(), Some(words));
        assert_eq!(show(&cut, Some(&next)).last_messages, ["Kernel panic"]);
    }

    #[test]
    fn history_fits_a_packet_whatever_its_boots_ended_by() {
        let reason = "because".repeat(10_000);
        let last_messages = vec!["m".repeat(160); 6];
        let ends = [
            (Some(BootEnd { at: 1, action: "reboot".to_owned(), reason: reason.clone(), cause: Cause::Failure }), None),
            (None, Some(format!("reboot: {reason}"))),
        ];
        for (end, ending) in ends {
            let progress = Progress {
                ending,
                watchdog: Some("reset by the watchdog (iTCO_wdt)".to_owned()),
                ..record(1).progress
            };
            let before = Death { last_messages: last_messages.clone() };
            let boot_id = "3ab2f1de-9d3d-4a8a-a1c5-7b1f9e3c5d21".to_owned();
            let boot = BootRecord { boot_id, version: "0.1.0".to_owned(), end, progress, before, ..record(u64::MAX) };
            // Those that are kept, and the present one.
            let boots = vec![show(&boot, Some(&boot)); 33];
            assert!(boots[0].ended.as_ref().is_some_and(|ended| ended.contains("because")));
            let answer = serde_json::to_vec(&Packet::Response(Response::Boots { boots })).unwrap();
            assert!(answer.len() <= PACKET_MAX, "{}", answer.len());
        }
    }

    #[test]
    fn present_boot_has_no_end() {
        let shown = show(&record(3), None);
        assert_eq!((shown.ended, shown.ended_unix_seconds), (None, None));
    }
}
