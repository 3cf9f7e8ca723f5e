use super::*;

fn name(text: &str) -> ServiceName {
    ServiceName::try_from(text.to_owned()).expect("a valid name")
}

fn rings_of(per_service: usize, total: usize, services: &[&str]) -> Rings {
    let rings = Rings::new(Limits { per_service, total });
    for service in services {
        rings.register(&name(service)).expect("room for a service");
    }
    rings
}

fn append(rings: &Rings, service: &str, lines: impl IntoIterator<Item = String>) {
    let time = Timestamp::now();
    rings.append(&name(service), lines.into_iter().map(|line| (time, line)));
}

fn texts(chunk: &Chunk) -> Vec<&str> {
    chunk.lines.iter().map(|line| line.split_once(' ').expect("a time and a text").1).collect()
}

#[test]
fn keeps_the_newest_lines_within_a_services_bound() {
    let rings = rings_of(1000, 100_000, &["a"]);
    append(&rings, "a", (0..100).map(|n| n.to_string()));
    assert!(rings.bytes() <= 1000);
    let chunk = rings.read(&name("a"), 0);
    assert_eq!(texts(&chunk).last(), Some(&"99"));
    assert_eq!(chunk.missed + chunk.lines.len() as u64, 100);
    assert!(chunk.lines.len() >= 10, "only {} lines kept", chunk.lines.len());
}

#[test]
fn the_largest_ring_gives_way_when_all_together_are_full() {
    let rings = rings_of(10_000, 12_000, &["quiet", "chatty", "chattier"]);
    append(&rings, "quiet", ["a single line".to_owned()]);
    append(&rings, "chatty", (0..200).map(|n| n.to_string()));
    append(&rings, "chattier", (0..400).map(|n| n.to_string()));
    assert!(rings.bytes() <= 12_000);
    assert_eq!(texts(&rings.read(&name("quiet"), 0)), ["a single line"]);
    assert_eq!(texts(&rings.read(&name("chattier"), 0)).last(), Some(&"399"));
    assert_eq!(texts(&rings.read(&name("chatty"), 0)).last(), Some(&"199"));
}

#[test]
fn a_line_larger_than_the_bound_leaves_nothing_and_is_counted() {
    let rings = rings_of(100, 1000, &["a"]);
    append(&rings, "a", ["x".repeat(500)]);
    assert_eq!(rings.bytes(), 0);
    assert_eq!(rings.read(&name("a"), 0).missed, 1);
}

#[test]
fn the_number_of_services_is_bounded() {
    let rings = Rings::new(LIMITS);
    for number in 0..SERVICES_MAX {
        rings.register(&name(&format!("s{number}"))).expect("below the bound");
    }
    assert_eq!(rings.register(&name("one-more")), Err(TooManyServices));
    rings.register(&name("s0")).expect("a service that is known already");
}

#[test]
fn a_slow_reader_learns_how_many_lines_it_missed() {
    let rings = rings_of(1000, 100_000, &["a"]);
    append(&rings, "a", ["first".to_owned()]);
    let chunk = rings.read(&name("a"), 0);
    assert_eq!((texts(&chunk), chunk.missed, chunk.next), (vec!["first"], 0, 1));
    append(&rings, "a", (0..100).map(|n| n.to_string()));
    let chunk = rings.read(&name("a"), chunk.next);
    assert_eq!(chunk.missed + chunk.lines.len() as u64, 100);
    assert_eq!(chunk.next, 101);
}

#[test]
fn a_reading_is_bounded_and_goes_on_where_it_ended() {
    let rings = rings_of(1 << 20, 1 << 20, &["a"]);
    append(&rings, "a", (0..100).map(|n| format!("{n} {}", "x".repeat(4000))));
    let mut cursor = 0;
    let mut readings = 0;
    while cursor < 100 {
        let chunk = rings.read(&name("a"), cursor);
        assert!(chunk.lines.iter().map(|line| line.len()).sum::<usize>() < CHUNK_BYTES_MAX + 5000);
        assert!(chunk.next > cursor, "no progress at {cursor}");
        cursor = chunk.next;
        readings += 1;
    }
    assert!(readings > 5);
}

#[test]
fn a_tail_says_what_the_files_must_add() {
    let rings = rings_of(1000, 100_000, &["a"]);
    append(&rings, "a", (0..100).map(|n| n.to_string()));
    let first = rings.read(&name("a"), 0).missed;
    rings.written(&name("a"), 98, FilePosition { bytes: 7, ..FilePosition::default() });

    let tail = rings.tail(&name("a"), 5).expect("a known service");
    assert_eq!((tail.from, tail.end, tail.older, tail.overlap), (95, 100, 0, 3));
    let tail = rings.tail(&name("a"), 90).expect("a known service");
    assert_eq!((tail.from, tail.older, tail.overlap), (first, 90 - (100 - first), 98 - first));
    assert_eq!(tail.file, Some(FilePosition { bytes: 7, ..FilePosition::default() }));
    assert_eq!(rings.tail(&name("b"), 5), None);
}

#[test]
fn services_take_turns_at_the_disk() {
    let rings = rings_of(100_000, 1_000_000, &["a", "b", "c"]);
    for service in ["a", "b", "c"] {
        append(&rings, service, ["line".to_owned()]);
    }
    let mut served = Vec::new();
    let mut last = None;
    for _ in 0..6 {
        let batch = rings.next_batch(last.as_ref()).expect("something to write");
        // Only part of the lines are taken as written, so that every service always has some left.
        served.push(batch.service.to_string());
        last = Some(batch.service);
    }
    assert_eq!(served, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn closing_lets_the_writer_finish_and_wakes_those_who_wait() {
    let rings = Arc::new(rings_of(1000, 1000, &["a"]));
    append(&rings, "a", ["last".to_owned()]);
    let waiter = {
        let rings = Arc::clone(&rings);
        std::thread::spawn(move || rings.wait(&name("a"), 1, Duration::from_mins(1)))
    };
    rings.close();
    assert_eq!(waiter.join().expect("the waiting thread"), Wake::Closing);
    let batch = rings.next_batch(None).expect("what was appended before");
    rings.written(&batch.service, batch.chunk.next, FilePosition::default());
    assert!(rings.next_batch(None).is_none());
}
