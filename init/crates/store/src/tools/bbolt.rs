//! Reading bbolt files: what etcd keeps its state in, and what its snapshots are.
//!
//! Only what moving a cluster over needs: the newest of the two meta pages, a bucket by its name, and its pairs in order. Nothing is
//! written, and a page is held only while its pairs are taken, so a file of any size needs little memory.
//!
//! # Layout (integers little endian, in the byte order of the machine that wrote them)
//!
//! ```text
//! page          u64 id, u16 flags (1 branch, 2 leaf, 4 meta, 16 free list), u16 count, u32 further pages it extends over, content
//! meta          u32 magic ed0cdaed, u32 version 2, u32 page size, u32 flags, u64 root page, u64 sequence, u64 page of the free list,
//!               u64 pages in use, u64 transaction, u64 FNV-1a of the bytes before
//! branch pair   u32 offset of the key from here, u32 its length, u64 page
//! leaf pair     u32 flags (1: the value is a bucket), u32 offset of the key from here, u32 its length, u32 length of the value behind it
//! bucket        u64 root page, u64 sequence; root page 0: the page follows right here
//! ```
//! Pages have no checksums: damage shows only where it breaks the structure. Every offset and length is checked before it is used, and no
//! walk takes more steps than the file has pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const PAIR_HEADER: usize = 16;
const BUCKET_HEADER: usize = 16;
const FLAG_BRANCH: u16 = 1;
const FLAG_LEAF: u16 = 2;
const FLAG_BUCKET: u32 = 1;
/// Page sizes to look for the second meta page at, should the first be damaged.
const PAGE_SIZES: [u64; 7] = [1024, 2048, 4096, 8192, 16384, 32768, 65536];
/// Far more than any tree of 64-bit page numbers is deep.
const MOST_LEVELS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum BboltError {
    #[error("read page {page}")]
    Read {
        page: u64,
        #[source]
        source: io::Error,
    },
    #[error("not a bbolt file: neither meta page is one")]
    NoMeta,
    #[error("page {page} is damaged: {reason}")]
    Damaged { page: u64, reason: &'static str },
}

/// An open file, as of its newest transaction.
#[derive(Debug)]
pub(super) struct Bbolt {
    file: File,
    len: u64,
    page_size: u64,
    root: u64,
    pages: u64,
}

#[derive(Clone, Copy, Debug)]
struct Meta {
    page_size: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl Bbolt {
    pub(super) fn open(path: &Path) -> Result<Self, BboltError> {
        let failed = |source| BboltError::Read { page: 0, source };
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let first = meta_at(&file, 0);
        let sizes: &[u64] = first.as_ref().map_or(&PAGE_SIZES, |meta| std::slice::from_ref(&meta.page_size));
        let second = sizes.iter().find_map(|size| meta_at(&file, *size).filter(|meta| meta.page_size == *size));
        let meta = first.into_iter().chain(second).max_by_key(|meta| meta.transaction).ok_or(BboltError::NoMeta)?;
        let Meta { page_size, root, pages, .. } = meta;
        Ok(Self { file, len, page_size, root, pages })
    }

    /// Size of the database, which a checksum may follow in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.saturating_mul(self.page_size)
    }

    /// Names of all buckets, in order.
    pub(super) fn buckets(&self) -> impl Iterator<Item = Result<Bytes, BboltError>> {
        Cursor::new(self, Root::Page(self.root)).filter_map(|pair| match pair {
            Ok(pair) => pair.is_bucket.then_some(Ok(pair.key)),
            Err(error) => Some(Err(error)),
        })
    }

    /// The pairs of a bucket in order of their keys; none if there is no such bucket.
    pub(super) fn bucket(&self, name: &[u8]) -> Result<Option<Cursor<'_>>, BboltError> {
        for pair in Cursor::new(self, Root::Page(self.root)) {
            let pair = pair?;
            if pair.is_bucket && pair.key == name {
                return self.bucket_of(&pair).map(Some);
            }
        }
        Ok(None)
    }

    fn bucket_of(&self, pair: &Pair) -> Result<Cursor<'_>, BboltError> {
        let root = u64_at(&pair.value, 0);
        let root = root.ok_or(BboltError::Damaged { page: self.root, reason: "a bucket's header is short" })?;
        let root = if root == 0 {
            Root::Inline(pair.value.slice(BUCKET_HEADER.min(pair.value.len())..))
        } else {
            Root::Page(root)
        };
        Ok(Cursor::new(self, root))
    }

    fn page(&self, page: u64) -> Result<Bytes, BboltError> {
        let offset = page.checked_mul(self.page_size).filter(|_| page < self.pages);
        let offset = offset.ok_or(BboltError::Damaged { page, reason: "it is behind the file's last page" })?;
        let read = |len: u64| {
            if offset.checked_add(len).is_none_or(|end| end > self.len) {
                return Err(BboltError::Damaged { page, reason: "the file ends within it" });
            }
            let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            self.file.read_exact_at(&mut buffer, offset).map_err(|source| BboltError::Read { page, source })?;
            Ok(Bytes::from(buffer))
        };
        let header = read(PAGE_HEADER as u64)?;
        if u64_at(&header, 0) != Some(page) {
            return Err(BboltError::Damaged { page, reason: "it holds another page's number" });
        }
        let further = u64::from(u32_at(&header, 12).unwrap_or(0));
        read((further + 1).saturating_mul(self.page_size))
    }
}

fn meta_at(file: &File, offset: u64) -> Option<Meta> {
    let mut page = [0; PAGE_HEADER + 64];
    file.read_exact_at(&mut page, offset).ok()?;
    let meta = page.get(PAGE_HEADER..)?;
    let checked = meta.get(..56)?;
    let page_size = u64::from(u32_at(meta, 8)?);
    let valid = u32_at(meta, 0)? == MAGIC
        && u32_at(meta, 4)? == VERSION
        && u64_at(meta, 56)? == fnv1a(checked)
        && PAGE_SIZES.contains(&page_size);
    valid.then_some(Meta {
        page_size,
        root: u64_at(meta, 16)?,
        pages: u64_at(meta, 40)?,
        transaction: u64_at(meta, 48)?,
    })
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A pair of a leaf; its bytes are slices of the page.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    is_bucket: bool,
}

#[derive(Debug)]
enum Root {
    Page(u64),
    Inline(Bytes),
}

/// Walks a tree's leaves in order.
#[derive(Debug)]
pub(super) struct Cursor<'f> {
    file: &'f Bbolt,
    /// Where to begin; none once it has begun.
    root: Option<Root>,
    path: Vec<Level>,
    pages_left: u64,
}

#[derive(Debug)]
struct Level {
    number: u64,
    page: Bytes,
    is_leaf: bool,
    next: usize,
    count: usize,
}

impl<'f> Cursor<'f> {
    fn new(file: &'f Bbolt, root: Root) -> Self {
        Self { file, root: Some(root), path: Vec::new(), pages_left: file.pages }
    }

    fn enter(&mut self, number: u64, page: Bytes) -> Result<(), BboltError> {
        let damaged = |reason| BboltError::Damaged { page: number, reason };
        if self.path.len() >= MOST_LEVELS || self.pages_left == 0 {
            return Err(damaged("the tree it belongs to has no end"));
        }
        self.pages_left -= 1;
        let flags = u16_at(&page, 8).ok_or_else(|| damaged("it is too short"))?;
        let is_leaf = match flags {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            _ => return Err(damaged("it is neither branch nor leaf")),
        };
        let count = usize::from(u16_at(&page, 10).unwrap_or(0));
        self.path.push(Level { number, page, is_leaf, next: 0, count });
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Pair>, BboltError> {
        match self.root.take() {
            Some(Root::Page(number)) => {
                let page = self.file.page(number)?;
                self.enter(number, page)?;
            }
            Some(Root::Inline(page)) => self.enter(0, page)?,
            None => {}
        }
        while let Some(level) = self.path.last_mut() {
            if level.next == level.count {
                self.path.pop();
                continue;
            }
            let at = PAGE_HEADER + level.next * PAIR_HEADER;
            level.next += 1;
            if level.is_leaf {
                return level.pair(at).map(Some);
            }
            let number = level.number;
            let child = u64_at(&level.page, at + 8);
            let child = child.ok_or(BboltError::Damaged { page: number, reason: "a pair of it is cut off" })?;
            let page = self.file.page(child)?;
            self.enter(child, page)?;
        }
        Ok(None)
    }
}

impl Level {
    fn pair(&self, at: usize) -> Result<Pair, BboltError> {
        let field = |index: usize| u32_at(&self.page, at + 4 * index).and_then(|field| usize::try_from(field).ok());
        let pair = (|| {
            let (flags, offset, key, value) = (u32_at(&self.page, at)?, field(1)?, field(2)?, field(3)?);
            let key_at = at.checked_add(offset)?;
            let value_at = key_at.checked_add(key)?;
            let end = value_at.checked_add(value)?;
            (end <= self.page.len()).then(|| Pair {
                key: self.page.slice(key_at..value_at),
                value: self.page.slice(value_at..end),
                is_bucket: flags & FLAG_BUCKET != 0,
            })
        })();
        pair.ok_or(BboltError::Damaged { page: self.number, reason: "a pair of it is cut off" })
    }
}

impl Iterator for Cursor<'_> {
    type Item = Result<Pair, BboltError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.advance();
        if pair.is_err() {
            self.path.clear();
        }
        pair.transpose()
    }
}
