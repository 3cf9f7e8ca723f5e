//! What happened to the cluster, for operators to read.
//!
//! An event is written in the transaction of the change that it tells of, so neither is without the other, and the order of
//! events is that of the store's revisions. What Kubernetes was asked to do is told once it has done it. Names, addresses and ids of tokens are
//! in them, and no secret.
//!
//! What the store does by itself, it does not write down: control planes see it in the list of its members, and the first to write
//! it is the only one, by the event's id.

use std::time::Duration;

use keelson_api::{Event, EventKind, EventList};

use crate::admission::timestamp;
use crate::registry::members::node_of;
use crate::registry::{Change, EventRecord, Registry, RegistryError, StoreMember, Stored, View};
use crate::report::{self, Complaint};

/// A cluster in trouble writes some ten an hour: a few days, in some hundred KiB.
pub const EVENTS_MAX: usize = 1000;
/// How often those before them are deleted.
const TRIM_INTERVAL: Duration = Duration::from_mins(1);
/// Below what the store takes in one transaction.
const TRIM_STEP: usize = 100;

/// The store acts on nobody's order.
const STORE: &str = "the store";

impl EventRecord {
    pub fn new(recorded_by: &str, actor: &str, kind: EventKind, at: i64, message: String) -> Self {
        Self {
            version: 1,
            id: uuid::Uuid::new_v4().simple().to_string(),
            at,
            kind,
            node: None,
            recorded_by: recorded_by.to_owned(),
            actor: actor.to_owned(),
            message,
        }
    }

    #[must_use]
    pub fn about(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }
}

/// The newest, without those up to a revision.
pub async fn list(registry: &Registry, after: Option<i64>) -> Result<EventList, RegistryError> {
    let stored = in_order(registry).await?;
    let kept = stored
        .into_iter()
        .rev()
        .take(EVENTS_MAX)
        .take_while(|stored| after.is_none_or(|after| stored.revision > after));
    let mut events: Vec<_> = kept.map(Event::from).collect();
    events.reverse();
    Ok(EventList { events })
}

/// Names each field of both, so that none can be forgotten.
impl From<Stored<EventRecord>> for Event {
    fn from(stored: Stored<EventRecord>) -> Self {
        let Stored { revision, value } = stored;
        let EventRecord { version: _, id: _, at, kind, node, recorded_by, actor, message } = value;
        Self { revision, time: timestamp(at), kind, node, recorded_by, actor, message }
    }
}

/// The oldest first.
async fn in_order(registry: &Registry) -> Result<Vec<Stored<EventRecord>>, RegistryError> {
    let mut stored = registry.list::<EventRecord>().await?;
    stored.sort_by(|one, other| (one.revision, &one.value.id).cmp(&(other.revision, &other.value.id)));
    Ok(stored)
}

/// Deletes what is too old, for ever. It does not matter how many control planes do it.
pub async fn keep(registry: &Registry) {
    let mut complaint = Complaint::default();
    loop {
        match trim(registry).await {
            Ok(()) => complaint.passed(),
            // The registry's own keeper says when the store does not answer.
            Err(RegistryError::Unavailable(_)) => {}
            Err(error) => complaint.of(report::chain(&error)),
        }
        tokio::time::sleep(TRIM_INTERVAL).await;
    }
}

async fn trim(registry: &Registry) -> Result<(), RegistryError> {
    let stored = in_order(registry).await?;
    let old = stored.get(..stored.len().saturating_sub(EVENTS_MAX)).unwrap_or_default();
    for step in old.chunks(TRIM_STEP) {
        let change =
            step.iter().fold(Change::default(), |change, stored| change.delete::<EventRecord>(&stored.value.id));
        registry.commit(change).await?;
    }
    Ok(())
}

/// Tells how the store's members have changed between two looks at them.
pub async fn tell_members(
    registry: &Registry,
    recorded_by: &str,
    before: &[StoreMember],
    after: &[StoreMember],
    now: i64,
) -> Result<(), RegistryError> {
    if before == after {
        return Ok(());
    }
    let view = registry.refresh().await?;
    for record in members_changed(recorded_by, before, after, &view, now) {
        registry.commit(Change::default().expect::<EventRecord>(&record.id, 0).put(&record)?).await?;
    }
    Ok(())
}

/// A member's name is used once, and so is the id of what became of it.
fn members_changed(
    recorded_by: &str,
    before: &[StoreMember],
    after: &[StoreMember],
    view: &View,
    now: i64,
) -> Vec<EventRecord> {
    let tell = |what: &str, kind, member: &StoreMember, message: &str| {
        let removed = view.removed.get(&member.name).map(|removed| removed.name.as_str());
        let node = node_of(view, &member.name).or(removed).unwrap_or(&member.name);
        let record = EventRecord::new(recorded_by, STORE, kind, now, format!("the store of {node} {message}"));
        EventRecord { id: format!("{what}-{}", member.name), ..record.about(node) }
    };
    let mut events = Vec::new();
    for member in after {
        let known = before.iter().find(|known| known.id == member.id);
        if known.is_none() {
            events.push(tell("added", EventKind::StoreMemberAdded, member, "is a member of the cluster's"));
        }
        if member.votes && known.is_none_or(|known| !known.votes) {
            events.push(tell("promoted", EventKind::StoreMemberPromoted, member, "takes part in decisions"));
        }
    }
    for member in before.iter().filter(|member| !after.iter().any(|left| left.id == member.id)) {
        events.push(tell("removed", EventKind::StoreMemberRemoved, member, "is no member of the cluster's any more"));
    }
    events
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keelson_config::Role;

    use super::*;
    use crate::registry::NodeRecord;
    use crate::registry::memory::Memory;
    use crate::registry::records::tests::node;

    fn registry() -> Registry {
        Registry::new(Arc::new(Memory::default()))
    }

    async fn tell(registry: &Registry, message: &str) {
        let record = EventRecord::new("a", "ann", EventKind::TokenCreated, 1_800_000_000, message.to_owned());
        assert!(registry.commit(Change::default().put(&record).unwrap()).await.unwrap());
    }

    fn messages(list: &EventList) -> Vec<&str> {
        list.events.iter().map(|event| event.message.as_str()).collect()
    }

    #[tokio::test]
    async fn are_told_in_their_order_and_followed_by_revision() {
        let registry = registry();
        for message in ["one", "two", "three"] {
            tell(&registry, message).await;
        }
        let all = list(&registry, None).await.unwrap();
        assert_eq!(messages(&all), ["one", "two", "three"]);
        assert_eq!((all.events[0].time.as_str(), all.events[0].recorded_by.as_str()), ("2027-01-15T08:00:00Z", "a"));
        let after = all.events[1].revision;
        assert_eq!(messages(&list(&registry, Some(after)).await.unwrap()), ["three"]);
        assert!(list(&registry, Some(all.events[2].revision)).await.unwrap().events.is_empty());
    }

    #[test]
    fn an_event_says_all_that_its_record_does() {
        let record = EventRecord::new("a", "ann", EventKind::NodeRemoved, 1_800_000_000, "w1 was removed".to_owned());
        let expected = Event {
            revision: 7,
            time: "2027-01-15T08:00:00Z".to_owned(),
            kind: EventKind::NodeRemoved,
            node: Some("w1".to_owned()),
            recorded_by: "a".to_owned(),
            actor: "ann".to_owned(),
            message: "w1 was removed".to_owned(),
        };
        assert_eq!(Event::from(Stored { revision: 7, value: record.about("w1") }), expected);
    }

    #[tokio::test]
    async fn only_the_newest_thousand_are_kept() {
        let registry = registry();
        for number in 0..EVENTS_MAX + 250 {
            tell(&registry, &number.to_string()).await;
        }
        assert_eq!(list(&registry, None).await.unwrap().events.len(), EVENTS_MAX);
        trim(&registry).await.unwrap();
        let left = list(&registry, None).await.unwrap();
        assert_eq!((left.events.len(), messages(&left)[0]), (EVENTS_MAX, "250"));
        trim(&registry).await.unwrap();
        assert_eq!(registry.list::<EventRecord>().await.unwrap().len(), EVENTS_MAX);
    }

    fn member(id: u64, name: &str, votes: bool) -> StoreMember {
        StoreMember { id, name: format!("uid-of-{name}"), peer_urls: Vec::new(), votes }
    }

    #[tokio::test]
    async fn what_becomes_of_the_stores_members_is_told_once_whoever_sees_it() {
        let registry = registry();
        for name in ["a", "b"] {
            let plane = NodeRecord { role: Role::ControlPlane, ..node(name) };
            assert!(registry.commit(Change::default().put(&plane).unwrap()).await.unwrap());
        }
        let looks = [
            vec![member(1, "a", true)],
            vec![member(1, "a", true), member(2, "b", false)],
            vec![member(1, "a", true), member(2, "b", true)],
            vec![member(2, "b", true)],
        ];
        for by in ["a", "b"] {
            for pair in looks.windows(2) {
                tell_members(&registry, by, &pair[0], &pair[1], 0).await.unwrap();
            }
        }
        let list = list(&registry, None).await.unwrap();
        let told: Vec<_> = list.events.iter().map(|event| (event.kind, event.node.as_deref())).collect();
        let expected = [
            (EventKind::StoreMemberAdded, Some("b")),
            (EventKind::StoreMemberPromoted, Some("b")),
            (EventKind::StoreMemberRemoved, Some("a")),
        ];
        assert_eq!(told, expected);
        assert!(list.events.iter().all(|event| event.recorded_by == "a"));
    }
}
