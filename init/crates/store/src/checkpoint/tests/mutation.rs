//! `state.redb` with any bytes in it: what is read is a commit, whole, or an error.

use keelson_mutation::{Random, inputs, mutate};

use super::*;

const WORDS: [&[u8]; 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0", b"redb"];
/// redb's header: which of two commits counts, and where their pages are.
const HEADER: usize = 4096;

type Seen = (Applied, Vec<Row>);

/// A checkpoint of several commits, and all of them.
fn written() -> (FakeDisk, Vec<Seen>) {
    let disk = FakeDisk::new();
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    let mut commits = vec![(Applied::default(), Vec::new())];
    for number in 1..=6 {
        let puts = (0..40).map(|key| row(number * 100 + key, &"value ".repeat(20))).collect();
        let deletes = (0..10).map(|key| (Table::Revisions, row((number - 1) * 100 + key, "").key)).collect();
        checkpoint.commit(&Delta { puts, deletes }, &applied(number)).unwrap();
        commits.push((applied(number), rows(&checkpoint)));
    }
    (disk, commits)
}

/// Some bytes overwritten, mostly where there are any.
fn overwrite(random: &mut Random, content: &mut [u8]) {
    for _ in 0..=random.below(3) {
        let reach = if random.below(4) == 0 { HEADER } else { content.len() };
        let places: Vec<usize> = (0..64).map(|_| random.below(reach)).collect();
        let at = places.iter().copied().find(|at| content[*at] != 0).unwrap_or(places[0]);
        let end = (at + 1 + random.below(8)).min(content.len());
        for byte in &mut content[at..end] {
            *byte = [0, 0xff, *byte ^ 1, random.byte()][random.below(4)];
        }
    }
}

fn read(disk: &FakeDisk) -> Result<Seen, LoadError> {
    let checkpoint = Checkpoint::open(disk, 1)?;
    checkpoint.applied()?;
    let rows = checkpoint.rows()?;
    Ok((rows.applied().clone(), rows.ahead()?.collect::<Result<_, _>>()?))
}

#[test]
fn a_damaged_file_gives_a_whole_commit_or_an_error() {
    let (disk, commits) = written();
    let good = disk.content(FILE_NAME).unwrap();
    inputs("a checkpoint", 200, |random| {
        let damaged = disk.copy();
        let content = if random.below(4) == 0 {
            mutate(random, &good, &WORDS)
        } else {
            let mut content = good.clone();
            overwrite(random, &mut content);
            content
        };
        damaged.set_content(FILE_NAME, content);
        if let Ok(seen) = read(&damaged) {
            assert!(commits.contains(&seen), "{} rows as of {:?}", seen.1.len(), seen.0.last);
        }
    });
}

#[test]
fn rows_that_a_damaged_page_hides_are_missed() {
    let disk = FakeDisk::new();
    let checkpoint = Checkpoint::open(&disk, 1).unwrap();
    checkpoint.commit(&Delta { puts: vec![row(1, "a"), row(2, "b")], deletes: Vec::new() }, &applied(1)).unwrap();
    // As if its page had one row less.
    let open = checkpoint.open_file();
    let transaction = open.begin().unwrap();
    transaction.open_table(table_definition(Table::Revisions)).unwrap().remove(row(1, "").key.as_ref()).unwrap();
    transaction.commit().unwrap();
    let mut rows = checkpoint.rows().unwrap();
    assert_eq!(rows.next().unwrap().unwrap(), row(2, "b"));
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}
