mod mutation;

use std::path::Path;

use prost::Message as _;

use super::bbolt::{Bbolt, BboltError};
use super::etcd_file::EtcdFile;
use super::{Facts, size, write_facts};
use crate::state::{Replicated as _, State};

const PAGE: usize = 4096;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A bbolt file of the given buckets, each in pages of at most `per_page` pairs under one branch page.
fn bbolt(buckets: &[(&str, Pairs)], per_page: usize) -> Vec<u8> {
    let mut pages: Vec<Vec<u8>> = vec![Vec::new(), Vec::new(), page(2, 16, 0, 1, &[])];
    let mut roots = Vec::new();
    for (name, pairs) in buckets {
        let mut leaves = Vec::new();
        for pairs in pairs.chunks(per_page) {
            let elements: Vec<(u32, &[u8], &[u8])> =
                pairs.iter().map(|(key, value)| (0, key.as_slice(), value.as_slice())).collect();
            leaves.push((pairs[0].0.clone(), push_leaf(&mut pages, &elements)));
        }
        let root = match leaves.as_slice() {
            [(_, only)] => *only,
            _ => push_branch(&mut pages, &leaves),
        };
        let mut value = root.to_le_bytes().to_vec();
        value.extend_from_slice(&[0; 8]);
        roots.push((name.as_bytes().to_vec(), value));
    }
    // One bucket in the root's page itself, as bbolt keeps small ones.
    let mut inline = vec![0; 16];
    inline.extend(leaf(0, &[(0, b"storageVersion", b"3.7.0")]));
    roots.push((b"meta".to_vec(), inline));
    roots.sort();
    let elements: Vec<(u32, &[u8], &[u8])> =
        roots.iter().map(|(name, value)| (1, name.as_slice(), value.as_slice())).collect();
    let root = push_leaf(&mut pages, &elements);
    let count = pages.iter().map(|page| page.len().div_ceil(PAGE).max(1)).sum::<usize>() as u64;
    let transactions = [7, 6];
    for (number, transaction) in transactions.into_iter().enumerate() {
        pages[number] = meta(number as u64, root, count, transaction);
    }
    pages.concat()
}

fn next_number(pages: &[Vec<u8>]) -> u64 {
    pages.iter().map(|page| page.len().div_ceil(PAGE).max(1)).sum::<usize>() as u64
}

fn push_leaf(pages: &mut Vec<Vec<u8>>, elements: &[(u32, &[u8], &[u8])]) -> u64 {
    let number = next_number(pages);
    let mut page = leaf(number, elements);
    page.resize(page.len().next_multiple_of(PAGE), 0);
    let further = u32::try_from(page.len() / PAGE - 1).unwrap();
    page[12..16].copy_from_slice(&further.to_le_bytes());
    pages.push(page);
    number
}

fn push_branch(pages: &mut Vec<Vec<u8>>, children: &[(Vec<u8>, u64)]) -> u64 {
    let number = next_number(pages);
    let mut content = Vec::new();
    let mut offset = u32::try_from(children.len() * 16).unwrap();
    for (key, child) in children {
        content.extend(offset.to_le_bytes());
        content.extend(u32::try_from(key.len()).unwrap().to_le_bytes());
        content.extend(child.to_le_bytes());
        offset = offset - 16 + u32::try_from(key.len()).unwrap();
    }
    for (key, _) in children {
        content.extend(key);
    }
    pages.push(page(number, 1, u16::try_from(children.len()).unwrap(), 1, &content));
    number
}

fn leaf(number: u64, elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut offset = elements.len() * 16;
    for (flags, key, value) in elements {
        for field in [*flags as usize, offset, key.len(), value.len()] {
            content.extend(u32::try_from(field).unwrap().to_le_bytes());
        }
        offset = offset - 16 + key.len() + value.len();
    }
    for (_, key, value) in elements {
        content.extend([*key, *value].concat());
    }
    page(number, 2, u16::try_from(elements.len()).unwrap(), 0, &content)
}

/// With a header; filled up to whole pages if any are asked for.
fn page(number: u64, flags: u16, count: u16, pages: usize, content: &[u8]) -> Vec<u8> {
    let mut page = number.to_le_bytes().to_vec();
    page.extend(flags.to_le_bytes());
    page.extend(count.to_le_bytes());
    page.extend(0_u32.to_le_bytes());
    page.extend(content);
    page.resize(page.len().max(pages * PAGE), 0);
    page
}

fn meta(number: u64, root: u64, count: u64, transaction: u64) -> Vec<u8> {
    let mut fields = Vec::new();
    for field in [0xed0c_daed_u32, 2, 4096, 0] {
        fields.extend(field.to_le_bytes());
    }
    for field in [root, 0, 2, count, transaction] {
        fields.extend(field.to_le_bytes());
    }
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let sum = fields.iter().fold(0xcbf2_9ce4_8422_2325, step);
    fields.extend(sum.to_le_bytes());
    page(number, 4, 0, 1, &fields)
}

/// Keys at revisions 2, 3, …, the last of them deleted again.
fn etcd_content(keys: i64) -> Vec<u8> {
    let mut rows = Vec::new();
    for revision in 2..2 + keys {
        let kv = keelson_etcd_api::mvccpb::KeyValue {
            key: format!("key-{revision}").into(),
            value: vec![b'v'; 100].into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: if revision == 2 { 5 } else { 0 },
        };
        rows.push((etcd_key(revision, false), kv.encode_to_vec()));
    }
    let deleted = keelson_etcd_api::mvccpb::KeyValue { key: format!("key-{}", 1 + keys).into(), ..Default::default() };
    rows.push((etcd_key(2 + keys, true), deleted.encode_to_vec()));
    // The mark of etcdutl's --bump-revision.
    rows.push((etcd_key(3 + keys, false), Vec::new()));
    // leasepb.Lease: id 5, 60 seconds.
    let leases = vec![(5_i64.to_be_bytes().to_vec(), vec![0x08, 5, 0x10, 60])];
    bbolt(&[("key", rows), ("lease", leases)], 30)
}

fn etcd_key(main: i64, tombstone: bool) -> Vec<u8> {
    let mut key = main.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend(0_u64.to_be_bytes());
    key.extend(tombstone.then_some(b't'));
    key
}

fn open(directory: &Path, content: &[u8]) -> Result<EtcdFile, BboltError> {
    let path = directory.join("db");
    std::fs::write(&path, content).unwrap();
    Bbolt::open(&path).map(EtcdFile)
}

#[test]
fn an_etcds_file_becomes_a_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path(), &etcd_content(100)).unwrap();
    let facts = file.facts().unwrap();
    assert_eq!((facts.revision, facts.total_keys, facts.version.as_str()), (103, 99, "3.7.0"));
    let state = State::default();
    state.load(&mut file.rows().unwrap()).unwrap();
    state.public().read(|mvcc, _| {
        assert_eq!((mvcc.live_keys(), mvcc.rows(), mvcc.revision(), mvcc.compact_revision()), (99, 101, 102, -1));
        let lease = mvcc.leases.get(crate::lease::LeaseId(5)).unwrap();
        assert_eq!((lease.ttl_seconds, lease.keys.len()), (60, 1));
    });
}

#[test]
fn the_second_meta_page_stands_in_for_a_torn_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut content = etcd_content(10);
    content[20] ^= 1;
    assert_eq!(open(directory.path(), &content).unwrap().facts().unwrap().total_keys, 9);
    content[PAGE + 20] ^= 1;
    assert!(matches!(open(directory.path(), &content), Err(BboltError::NoMeta)));
}

#[test]
fn a_damaged_file_ends_in_an_error_and_never_in_a_panic_or_a_loop() {
    let directory = tempfile::tempdir().unwrap();
    let good = etcd_content(60);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    for _ in 0..2000 {
        let mut content = good.clone();
        for _ in 0..=next(4) {
            // Headers and pairs' places are at the pages' beginnings.
            let at = (2 + next(content.len() / PAGE - 2)) * PAGE + next(600);
            content[at] = u8::try_from(next(256)).unwrap();
        }
        content.truncate(content.len() - next(2) * next(content.len() - 2 * PAGE));
        let Ok(file) = open(directory.path(), &content) else { continue };
        // Some changes hit a value and are no damage to the structure.
        if let Ok(mut rows) = file.rows() {
            drop(rows.by_ref().take(10_000).collect::<Vec<_>>());
        }
        drop(file.facts());
    }
}

#[test]
fn a_child_that_is_its_own_parent_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let mut content = etcd_content(100);
    let branch = (0..content.len() / PAGE).find(|page| content[page * PAGE + 8] == 1).unwrap();
    let own = u64::try_from(branch).unwrap().to_le_bytes();
    content[branch * PAGE + 24..branch * PAGE + 32].copy_from_slice(&own);
    let file = open(directory.path(), &content).unwrap();
    assert!(file.facts().unwrap_err().to_string().contains("etcd database"));
}

#[test]
fn facts_are_written_as_etcdutl_writes_them() {
    let facts = Facts { hash: 0xabc, revision: 4, total_keys: 3, total_size: 20480, version: "3.7.0".to_owned() };
    assert_eq!(write_facts("simple", &facts), "abc, 4, 3, 20 kB, 3.7.0\n");
    assert_eq!(
        write_facts("json", &facts),
        "{\"hash\":2748,\"revision\":4,\"totalKey\":3,\"totalSize\":20480,\"version\":\"3.7.0\"}\n"
    );
    for (bytes, text) in
        [(82, "82 B"), (1234, "1.2 kB"), (999_999, "1000 kB"), (2_500_000, "2.5 MB"), (25_000_000, "25 MB")]
    {
        assert_eq!(size(bytes), text);
    }
}
