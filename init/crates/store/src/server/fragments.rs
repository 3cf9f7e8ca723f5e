//! A watch's answer cut into pieces, for watches that asked for it.

use keelson_etcd_api::encoded::Event;
use keelson_etcd_api::server::WatchResponse;
use prost::Message as _;

/// What is left of an answer, with the bound on a piece.
#[derive(Debug)]
pub(super) struct Fragments {
    head: WatchResponse,
    events: std::iter::Peekable<std::vec::IntoIter<Event>>,
    limit: usize,
    whole: bool,
    done: bool,
}

impl Fragments {
    pub(super) fn new(mut answer: WatchResponse, limit: usize) -> Self {
        // As etcd: an answer below the bound, or of one event, stays whole.
        let whole = answer.encoded_len() < limit || answer.events.len() < 2;
        let events = std::mem::take(&mut answer.events).into_iter().peekable();
        Self { head: answer, events, limit, whole, done: false }
    }
}

impl Iterator for Fragments {
    type Item = WatchResponse;

    /// Every piece but the last is marked as a fragment; each holds at least one event.
    fn next(&mut self) -> Option<WatchResponse> {
        if self.done {
            return None;
        }
        let mut piece = self.head.clone();
        // The mark itself takes two bytes.
        let mut size = piece.encoded_len() + 2;
        while let Some(event) = self.events.peek() {
            let length = event.encoded_len();
            size += 1 + prost::length_delimiter_len(length) + length;
            if !self.whole && !piece.events.is_empty() && size >= self.limit {
                break;
            }
            piece.events.extend(self.events.next());
        }
        piece.fragment = self.events.peek().is_some();
        self.done = !piece.fragment;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use keelson_etcd_api::encoded::{KeyValue, Parts};

    use super::*;

    fn answer(sizes: &[usize]) -> WatchResponse {
        let event = |size: &usize| {
            let value = vec![1; *size];
            let kv = KeyValue::encode(&Parts { key: b"k", value: &value, version: 1, ..Parts::default() });
            Event { delete: false, kv, prev_kv: None }
        };
        WatchResponse { watch_id: 7, events: sizes.iter().map(event).collect(), ..WatchResponse::default() }
    }

    #[test]
    fn pieces_stay_below_the_bound_and_hold_everything_in_order() {
        let whole = answer(&[300, 500, 100, 2000, 1, 1]);
        let pieces: Vec<WatchResponse> = Fragments::new(whole.clone(), 1000).collect();
        let marks: Vec<bool> = pieces.iter().map(|piece| piece.fragment).collect();
        assert_eq!(marks, [true, true, false]);
        for piece in &pieces {
            assert!(piece.encoded_len() < 1000 || piece.events.len() == 1, "{}", piece.encoded_len());
            assert_eq!(piece.watch_id, 7);
        }
        let events: Vec<Event> = pieces.into_iter().flat_map(|piece| piece.events).collect();
        assert_eq!(events, whole.events);
    }

    #[test]
    fn a_small_answer_stays_whole() {
        for sizes in [&[10, 10][..], &[5000][..]] {
            let whole = answer(sizes);
            let pieces: Vec<WatchResponse> = Fragments::new(whole.clone(), 1000).collect();
            assert_eq!(pieces, [whole]);
        }
    }
}
