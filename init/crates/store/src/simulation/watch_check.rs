//! What must hold of watches: each is told every event that concerns it, once, in order and whole; a progress mark comes behind all it speaks for.

use std::collections::BTreeMap;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::mvccpb::Event;

use super::check::{Truth, in_range};
use super::watchers::Session;

/// Where one watch of a session is.
struct Place {
    /// Events of revisions below it were told, or are not its concern.
    next: i64,
    /// All that it is to be told, in order.
    expected: Vec<Event>,
    told: usize,
    /// A mark, or a header, has said that there is nothing more up to here.
    mark: i64,
    prev_kv: bool,
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// The events of a watch that begins at a revision.
fn expected(truth: &Truth, request: &pb::WatchCreateRequest, from: i64) -> Vec<Event> {
    let is_filtered = |event: &Event| {
        // The filters' numbers are in the order of the events'.
        let filter = event.r#type;
        request.filters.contains(&filter)
    };
    let events = truth.model.events.iter().filter(|event| revision(event) >= from);
    let concern = events.filter(|event| {
        let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
        in_range(key, &request.key, &request.range_end) && !is_filtered(event)
    });
    concern.cloned().collect()
}

impl Place {
    /// The next events of it.
    fn tell(&mut self, events: &[Event], compacted: i64) -> Result<(), String> {
        for event in events {
            let Some(expected) = self.expected.get(self.told) else {
                return Err(format!("{event:?} was told and never was"));
            };
            if (event.r#type, &event.kv) != (expected.r#type, &expected.kv) {
                return Err(format!("{event:?} was told and {expected:?} is next"));
            }
            let created = expected.prev_kv.is_none();
            let previous_compacted = revision(expected) - 1 < compacted;
            let same_previous = match &event.prev_kv {
                None => !self.prev_kv || created || previous_compacted,
                previous => self.prev_kv && previous == &expected.prev_kv,
            };
            if !same_previous {
                return Err(format!("{event:?} has another pair before it than {expected:?}"));
            }
            if revision(event) <= self.mark {
                return Err(format!("{event:?} was told after a mark of revision {}", self.mark));
            }
            self.told += 1;
        }
        let last = events.last().map_or(0, revision);
        if self.expected.get(self.told).is_some_and(|next| revision(next) == last) {
            return Err(format!("revision {last} was told in parts"));
        }
        Ok(())
    }

    /// Nothing up to a revision is missing.
    fn mark(&mut self, at: i64) -> Result<(), String> {
        if let Some(next) = self.expected.get(self.told)
            && revision(next) <= at
        {
            return Err(format!("a mark of revision {at} came before {next:?}"));
        }
        self.mark = self.mark.max(at);
        Ok(())
    }
}

/// Checks what came on one stream.
pub(crate) fn check(truth: &Truth, session: &Session) -> Result<(), String> {
    let mut places: BTreeMap<i64, Place> = BTreeMap::new();
    for answer in &session.answers {
        let told = check_answer(truth, session, &mut places, answer);
        told.map_err(|text| format!("{text}: {answer:?} on member {}", session.member))?;
    }
    if session.complete {
        for (id, place) in &places {
            let left = place.expected.len() - place.told;
            if left > 0 {
                return Err(format!("watch {id} was not told {left} events: {:?}", session.watches[id]));
            }
        }
    }
    Ok(())
}

fn check_answer(
    truth: &Truth,
    session: &Session,
    places: &mut BTreeMap<i64, Place>,
    answer: &pb::WatchResponse,
) -> Result<(), String> {
    let at = answer.header.as_ref().map_or(0, |header| header.revision);
    if answer.created {
        let request = &session.watches[&answer.watch_id];
        let from = if request.start_revision == 0 { at + 1 } else { request.start_revision };
        let expected = expected(truth, request, from);
        let place = Place { next: from, expected, told: 0, mark: 0, prev_kv: request.prev_kv };
        places.insert(answer.watch_id, place);
        return Ok(());
    }
    if answer.watch_id == -1 {
        return places.values_mut().try_for_each(|place| place.mark(at));
    }
    if answer.canceled {
        let place = places.remove(&answer.watch_id).ok_or("a watch that is not was cancelled")?;
        let next = place.expected.get(place.told).map_or(place.next, revision).max(place.next);
        let lost = answer.compact_revision > place.next && answer.compact_revision <= truth.compacted();
        return if lost { Ok(()) } else { Err(format!("cancelled, and {next} is not compacted")) };
    }
    let place = places.get_mut(&answer.watch_id).ok_or("a watch that is not was told something")?;
    place.tell(&answer.events, truth.compacted())?;
    if let Some(event) = answer.events.last() {
        place.next = revision(event) + 1;
    }
    place.mark(at)
}
