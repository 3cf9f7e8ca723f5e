//! What comes from other members with any bytes in it: understood, or an error.

use keelson_mutation::campaign;

use super::super::frame::{Frame, Reader, encode};
use super::super::wire::HelloRecord;
use super::*;

const WORDS: [&[u8]; 6] =
    [b"\0", b"\x01", b"\x0a\x00", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80"];
const LIMIT: usize = 4096;

#[test]
fn requests_are_understood_or_refused_whatever_their_bytes() {
    let seeds: Vec<Vec<u8>> =
        requests().into_iter().map(|request| RequestRecord::from(request).encode_to_vec()).collect();
    campaign("a member's request", 20_000, &seeds, &WORDS, |bytes| {
        let record = RequestRecord::decode(Bytes::copy_from_slice(bytes));
        let Ok(Ok(request)) = record.map(RequestRecord::request) else { return };
        // What was understood can be said again.
        let said = format!("{request:?}");
        let again = RequestRecord::from(request).encode_to_vec();
        let again = RequestRecord::decode(Bytes::from(again)).unwrap().request().unwrap();
        assert_eq!(format!("{again:?}"), said);
    });
}

#[test]
fn answers_are_understood_or_refused_whatever_their_bytes() {
    let seeds: Vec<Vec<u8>> = answers().into_iter().map(|answer| AnswerRecord::from(answer).encode_to_vec()).collect();
    campaign("a member's answer", 20_000, &seeds, &WORDS, |bytes| {
        let record = AnswerRecord::decode(Bytes::copy_from_slice(bytes));
        let Ok(Ok(answer)) = record.map(AnswerRecord::answer) else { return };
        let again = AnswerRecord::from(answer).encode_to_vec();
        assert!(AnswerRecord::decode(Bytes::from(again)).unwrap().answer().is_ok());
    });
}

#[test]
fn hellos_are_understood_or_refused_whatever_their_bytes() {
    let from = Local { cluster_id: 1, member_id: MemberId(2), store_id: 3 };
    let seeds = [Lane::Control, Lane::Log, Lane::Snapshot, Lane::Forward, Lane::Join]
        .map(|lane| HelloRecord::new(&Hello { from, target: MemberId(4), lane }).encode_to_vec());
    campaign("a hello", 5000, &seeds, &WORDS, |bytes| {
        if let Ok(record) = HelloRecord::decode(bytes)
            && let Ok(hello) = record.hello()
        {
            assert_eq!(HelloRecord::new(&hello).hello(), Ok(hello));
        }
    });
}

/// All frames of a stream up to its end or its first fault.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut reader, mut frames) = (Reader::new(bytes, LIMIT), Vec::new());
        while let Ok(Some(frame)) = reader.next().await {
            frames.push(frame);
        }
        frames
    })
}

#[test]
fn a_damaged_stream_gives_frames_that_were_sent_or_ends() {
    let messages: Vec<RequestRecord> = requests().into_iter().map(RequestRecord::from).collect();
    let sent: Vec<u8> = (0..).zip(&messages).flat_map(|(id, message)| encode(id, message)).collect();
    let good = frames(&sent);
    assert_eq!(good.len(), messages.len());
    campaign("a stream of frames", 3000, &[sent], &WORDS, |bytes| {
        for frame in frames(bytes) {
            assert!(good.contains(&frame), "{frame:?}");
        }
    });
}
