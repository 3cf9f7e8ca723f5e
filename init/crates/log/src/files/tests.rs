use super::*;

fn name() -> ServiceName {
    ServiceName::try_from("a".to_owned()).expect("a valid name")
}

const SMALL: Rotation = Rotation { file_bytes: 100, files: 3 };

/// Writes `<number>\n` for each number, one append each.
fn write_numbers(directory: &mut Directory, numbers: std::ops::Range<u32>) -> FilePosition {
    let mut position = FilePosition::default();
    for number in numbers {
        position = directory.append(&name(), format!("{number}\n").as_bytes()).expect("written");
    }
    position
}

fn tail(path: &Path, bytes: Option<u64>, skip: u64, lines: u64) -> Vec<String> {
    let archive = Archive::open(path, &name(), SMALL, bytes).expect("opened");
    let mut text = String::new();
    for segment in archive.tail(skip, lines).expect("searched") {
        segment.reader().expect("positioned").read_to_string(&mut text).expect("read");
    }
    text.lines().map(str::to_owned).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn rotates_by_size_and_keeps_a_bounded_number_of_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keelson");
    let position = write_numbers(&mut Directory::new(&path, SMALL), 1000..1500);
    let mut files: Vec<_> = fs::read_dir(&path)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    files.sort();
    assert_eq!(files, ["a.log", "a.log.1", "a.log.2"]);
    // 20 lines of 5 bytes a file, and 500 lines.
    let inode = fs::metadata(path.join("a.log")).expect("the current file").ino();
    assert_eq!(position, FilePosition { rotation: 24, inode, bytes: 100 });
    for file in files {
        assert_eq!(fs::metadata(path.join(file)).expect("a file").len(), 100);
    }
}

#[test]
fn finds_the_newest_lines_across_files() {
    let directory = tempfile::tempdir().expect("a directory");
    write_numbers(&mut Directory::new(directory.path(), SMALL), 1000..1045);
    let path = directory.path();
    assert_eq!(tail(path, None, 0, 3), numbers(1042..1045));
    assert_eq!(tail(path, None, 0, 5), numbers(1040..1045));
    assert_eq!(tail(path, None, 0, 6), numbers(1039..1045));
    assert_eq!(tail(path, None, 2, 30), numbers(1013..1043));
    assert_eq!(tail(path, None, 10, 10), numbers(1025..1035));
    assert_eq!(tail(path, None, 0, 1000), numbers(1000..1045));
    assert_eq!(tail(path, None, 44, 1000), numbers(1000..1001));
    assert_eq!(tail(path, None, 1000, 1000), numbers(0..0));
    assert_eq!(tail(path, None, 0, 0), numbers(0..0));
}

#[test]
fn files_that_were_renamed_are_told_from_those_that_were_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut storage = Directory::new(directory.path(), SMALL);
    let before = write_numbers(&mut storage, 1000..1020);
    let archive = Archive::open(directory.path(), &name(), SMALL, Some(before.bytes)).expect("opened");
    assert!(archive.ends_in(before.inode));
    let after = write_numbers(&mut storage, 1020..1021);
    assert_eq!(after.rotation, before.rotation + 1);
    assert!(!archive.ends_in(before.inode), "what was the current file is another one's name now");
    let archive = Archive::open(directory.path(), &name(), SMALL, Some(before.bytes)).expect("opened");
    assert!(!archive.ends_in(before.inode) && archive.ends_in(after.inode));
}

#[test]
fn reads_no_further_than_the_position_that_was_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    write_numbers(&mut Directory::new(directory.path(), SMALL), 1000..1010);
    assert_eq!(tail(directory.path(), Some(25), 0, 2), numbers(1003..1005));
    assert_eq!(tail(directory.path(), Some(0), 0, 2), numbers(0..0));
}

#[test]
fn finds_lines_longer_than_a_block() {
    let directory = tempfile::tempdir().expect("a directory");
    let long = "x".repeat(3 * BLOCK_BYTES);
    fs::write(directory.path().join("a.log"), format!("first\n{long}\nlast\n")).expect("written");
    assert_eq!(tail(directory.path(), None, 0, 2), [long.as_str(), "last"]);
    assert_eq!(tail(directory.path(), None, 1, 1), [long.as_str()]);
    assert_eq!(tail(directory.path(), None, 2, 1), ["first"]);
}

#[test]
fn goes_on_in_the_file_of_an_earlier_process_and_ends_its_half_line() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a.log"), "whole\nhal").expect("written");
    let mut storage = Directory::new(directory.path(), SMALL);
    let inode = fs::metadata(directory.path().join("a.log")).expect("the file").ino();
    assert_eq!(storage.open(&name()).expect("opened"), FilePosition { rotation: 0, inode, bytes: 10 });
    write_numbers(&mut storage, 1..3);
    assert_eq!(tail(directory.path(), None, 0, 9), ["whole", "hal", "1", "2"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("file"), "").expect("written");
    let mut storage = Directory::new(directory.path().join("file/keelson"), SMALL);
    let error = storage.append(&name(), b"line\n").expect_err("a file is no directory");
    assert!(error.to_string().contains("file/keelson"), "{error}");
}

#[test]
fn lines_are_not_for_everyone() {
    let directory = tempfile::tempdir().expect("a directory");
    write_numbers(&mut Directory::new(directory.path(), SMALL), 0..1);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(directory.path().join("a.log")).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o007, 0, "mode {mode:o}");
}
