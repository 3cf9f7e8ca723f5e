//! A root's hash tree, in dm-verity's own form: a superblock of 512 bytes (veritysetup(8)), then the tree from its top down.
//!
//! A block of the tree holds the digests of 128 blocks of the level below; the digest of the topmost block is the root hash,
//! which the boot loader's image or the initramfs carries and by which every byte of the root is judged when it is read.
//! Written here because it is a page, and the host's tools may be of any age.

use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, digest};

use super::error::{BuildError, FileContext as _};

/// Of data and of the tree alike: the kernel's page.
pub(crate) const BLOCK_BYTES: usize = 4096;
const DIGEST_BYTES: usize = 32;

pub(crate) type Digest = [u8; DIGEST_BYTES];

/// As the kernel's command line and the initramfs have it.
pub(crate) fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// What [`hex`] wrote.
pub(crate) fn parse(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != DIGEST_BYTES * 2 || !text.is_ascii() {
        return None;
    }
    for (number, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(number * 2..number * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Writes the tree of `data` to `tree` and returns the root hash.
pub(crate) fn write(data: &Path, tree: &Path) -> Result<Digest, BuildError> {
    // The same data have the same salt, and no two roots share one.
    let salt = salt(data)?;
    let (mut digests, data_blocks) = leaves(data, &salt)?;
    let mut levels = Vec::new();
    while digests.len() > 1 {
        let blocks = level(&digests);
        digests = blocks.chunks_exact(BLOCK_BYTES).map(|block| salted(&salt, block)).collect();
        levels.push(blocks);
    }
    let problem = || BuildError::Malformed { path: data.to_owned(), problem: "it is too small for a tree".to_owned() };
    let root_hash = digests.first().copied().filter(|_| !levels.is_empty()).ok_or_else(problem)?;

    let mut output = File::create(tree).at("make", tree)?;
    let mut superblock = superblock(data_blocks, &salt);
    superblock.resize(BLOCK_BYTES, 0);
    output.write_all(&superblock).at("write", tree)?;
    for blocks in levels.iter().rev() {
        output.write_all(blocks).at("write", tree)?;
    }
    Ok(root_hash)
}

fn salt(data: &Path) -> Result<Digest, BuildError> {
    let mut file = File::open(data).at("open", data)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).at("read", data)?;
        match buffer.get(..length) {
            None | Some([]) => return Ok(bytes(context.finish().as_ref())),
            Some(read) => context.update(read),
        }
    }
}

/// The digests of the data's blocks, the last one filled up with zeroes.
fn leaves(data: &Path, salt: &Digest) -> Result<(Vec<Digest>, u64), BuildError> {
    let mut input = BufReader::with_capacity(1 << 20, File::open(data).at("open", data)?);
    let mut digests = Vec::new();
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        input.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block).at("read", data)?;
        if block.is_empty() {
            let blocks = digests.len() as u64;
            return Ok((digests, blocks));
        }
        block.resize(BLOCK_BYTES, 0);
        digests.push(salted(salt, &block));
    }
}

fn level(digests: &[Digest]) -> Vec<u8> {
    let mut blocks = digests.concat();
    blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
    blocks
}

fn salted(salt: &Digest, block: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(block);
    bytes(context.finish().as_ref())
}

fn bytes(digest: &[u8]) -> Digest {
    digest.first_chunk().copied().unwrap_or_default()
}

fn superblock(data_blocks: u64, salt: &Digest) -> Vec<u8> {
    let mut superblock = b"verity\0\0".to_vec();
    // Version and type of the form.
    superblock.extend_from_slice(&1_u32.to_le_bytes());
    superblock.extend_from_slice(&1_u32.to_le_bytes());
    // An identity, which is the salt's.
    superblock.extend_from_slice(digest(&SHA256, salt).as_ref().get(..16).unwrap_or_default());
    superblock.extend_from_slice(b"sha256");
    superblock.resize(64, 0);
    let block = u32::try_from(BLOCK_BYTES).unwrap_or_default();
    superblock.extend_from_slice(&block.to_le_bytes());
    superblock.extend_from_slice(&block.to_le_bytes());
    superblock.extend_from_slice(&data_blocks.to_le_bytes());
    // The salt has as many bytes as a digest.
    superblock.extend_from_slice(&[32, 0, 0, 0, 0, 0, 0, 0]);
    superblock.extend_from_slice(salt);
    superblock.resize(512, 0);
    superblock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_survives_being_written() {
        let digest = Digest::from(std::array::from_fn(|number| u8::try_from(number * 8).unwrap()));
        assert_eq!(parse(&hex(&digest)), Some(digest));
        assert_eq!(parse("00"), None);
        assert_eq!(parse(&"x".repeat(64)), None);
    }

    /// 300 blocks, each filled with its number: three blocks of digests below one on top.
    #[test]
    fn root_hash_is_the_one_that_veritysetup_computes() {
        let folder = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..300_u32).flat_map(|number| [number.to_le_bytes()[0]; BLOCK_BYTES]).collect();
        std::fs::write(folder.path().join("data"), data).unwrap();
        let root_hash = write(&folder.path().join("data"), &folder.path().join("tree")).unwrap();
        let tree = std::fs::read(folder.path().join("tree")).unwrap();
        assert_eq!(tree.len(), (1 + 1 + 3) * BLOCK_BYTES);
        // veritysetup format --salt=… (cryptsetup 2.6.1), from which the digest below is taken.
        assert_eq!(hex(&tree[88..120].try_into().unwrap()), SALT);
        assert_eq!(hex(&root_hash), ROOT_HASH);
    }

    const SALT: &str = "f943b01ad76218544d1c171203cf63da05be904577aeb967f63bf0e26717ad9d";
    const ROOT_HASH: &str = "97afcb9927deef62c3e59047f118c3b2348d8ee9abeb7a5e6dc466f64182ffb3";

    #[test]
    fn data_of_one_block_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data"), [1]).unwrap();
        assert!(write(&folder.path().join("data"), &folder.path().join("tree")).is_err());
    }
}
