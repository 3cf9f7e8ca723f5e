//! A disk that forgets what was not flushed, served to QEMU over NBD.
//!
//! Killing QEMU loses only what the guest itself had not yet written: the host keeps the rest, so it proves nothing about
//! flushes. This disk keeps every write in memory until the guest flushes; at a power cut it persists a random part of
//! what was not flushed, in no particular order and torn at sectors, as a real disk's cache would, and drops the rest.
//!
//! Protocol: the NBD project's doc/proto.md, fixed newstyle with `NBD_OPT_GO`, simple replies, one client at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::wait;

/// A sector is what a disk writes whole or not at all.
const SECTOR: u64 = 512;
/// QEMU asks for at most 32 MiB at once; a longer request is a protocol error.
const REQUEST_MAX: u32 = 32 << 20;

const MAGIC_INIT: u64 = 0x4e42_444d_4147_4943;
const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_REPLY: u32 = 0x6744_6698;
/// Handshake flags: fixed newstyle, no padding after the export's description.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// Transmission flags: `HAS_FLAGS`, `SEND_FLUSH`, `SEND_FUA`.
const TRANSMISSION_FLAGS: u16 = 0b1101;
const COMMAND_FLAG_FUA: u16 = 1;

/// The disk: a file, and the sectors written since the last flush.
#[derive(Debug)]
struct Disk {
    file: File,
    unflushed: BTreeMap<u64, Box<[u8]>>,
    cut: Option<Cut>,
    armed: Option<Armed>,
    /// To write or to flush, since a cut was asked for.
    requests: u64,
}

/// A cut that is to come.
#[derive(Debug, Clone, Copy)]
struct Armed {
    moment: Moment,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    AmidWrites,
    /// With this one of the requests.
    Request(u64),
}

/// A page of the guest's, not yet flushed: enough for a cut to lose something.
const ARMED_SECTORS: usize = 8;

impl Disk {
    fn new(file: File) -> Self {
        Self { file, unflushed: BTreeMap::new(), cut: None, armed: None, requests: 0 }
    }

    /// A disk may be exchanged for a larger one while the machine is off.
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len() / SECTOR * SECTOR)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        for (&sector, data) in self.unflushed.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = sector * SECTOR;
            // A request is whole sectors: QEMU keeps to the block size that the export announces.
            let at = usize::try_from(start.saturating_sub(offset)).map_err(io::Error::other)?;
            if let Some(target) = buffer.get_mut(at..at + data.len()) {
                target.copy_from_slice(data);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.cut.is_some() {
            return Ok(());
        }
        let sectors = data.chunks_exact(usize::try_from(SECTOR).unwrap_or(512));
        for (sector, bytes) in (offset / SECTOR..).zip(sectors) {
            self.unflushed.insert(sector, bytes.into());
        }
        self.requests += 1;
        self.cut_if_due().map(drop)
    }

    /// The guest asks for what it has written to be kept.
    fn flush_asked(&mut self) -> io::Result<()> {
        self.requests += 1;
        if self.cut_if_due()? { Ok(()) } else { self.flush() }
    }

    fn cut_if_due(&mut self) -> io::Result<bool> {
        let Some(Armed { moment, seed }) = self.armed else { return Ok(false) };
        let due = match moment {
            Moment::AmidWrites => self.unflushed.len() >= ARMED_SECTORS,
            Moment::Request(number) => self.requests >= number,
        };
        if due {
            self.cut(seed)?;
        }
        Ok(due)
    }

    fn cut(&mut self, seed: u64) -> io::Result<Cut> {
        let mut random = seed | 1;
        let mut cut = Cut { sectors_kept: 0, sectors_lost: 0 };
        for (sector, data) in std::mem::take(&mut self.unflushed) {
            // xorshift64*: any generator that a printed seed can repeat will do.
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            if random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 63 == 0 {
                self.file.write_all_at(&data, sector * SECTOR)?;
                cut.sectors_kept += 1;
            } else {
                cut.sectors_lost += 1;
            }
        }
        self.armed = None;
        self.cut = Some(cut);
        Ok(cut)
    }

    fn flush(&mut self) -> io::Result<()> {
        for (sector, data) in std::mem::take(&mut self.unflushed) {
            self.file.write_all_at(&data, sector * SECTOR)?;
        }
        Ok(())
    }
}

/// What a power cut did to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub sectors_kept: usize,
    pub sectors_lost: usize,
}

/// The disk while it is served. Dropping it ends the service; the thread ends with its client.
#[derive(Debug)]
pub struct PowerCutDisk {
    disk: Arc<Mutex<Disk>>,
    socket: PathBuf,
}

impl PowerCutDisk {
    /// Serves `file` on the unix socket `socket`, as NBD's default export.
    pub fn serve(file: &Path, socket: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(file)?;
        let disk = Arc::new(Mutex::new(Disk::new(file)));
        if socket.exists() {
            std::fs::remove_file(socket)?;
        }
        let listener = UnixListener::bind(socket)?;
        let served = Arc::clone(&disk);
        std::thread::Builder::new().name("nbd".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that goes away, as QEMU does when it is killed, is no error of the disk's.
                let _ = serve_client(client, &served);
            }
        })?;
        Ok(Self { disk, socket: socket.to_owned() })
    }

    /// QEMU's name for this disk (`-drive file=…`).
    pub fn qemu_file(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Cuts the power at the next moment at which something is written and not flushed: from then on nothing is written or
    /// answered, and of what was not flushed a part chosen by `seed` survives.
    pub fn cut_amid_writes(&self, seed: u64) {
        self.locked().armed = Some(Armed { moment: Moment::AmidWrites, seed });
    }

    /// The same with the request `number`, from 1, of those that write or flush from now on: it is not answered, and what it is about
    /// is among what was not flushed.
    pub fn cut_at_request(&self, number: u64, seed: u64) {
        let mut disk = self.locked();
        disk.requests = 0;
        disk.armed = Some(Armed { moment: Moment::Request(number), seed });
    }

    /// How many requests wrote or flushed since [`Self::cut_at_request`].
    pub fn requests(&self) -> u64 {
        self.locked().requests
    }

    /// Puts all into the file, where others may look at it while no machine does.
    pub fn flush(&self) -> io::Result<()> {
        self.locked().flush()
    }

    /// From now on nothing is answered: a disk, or the way to it, that hangs. Nothing is lost.
    pub fn freeze(&self) -> io::Result<()> {
        let mut disk = self.locked();
        disk.flush()?;
        disk.cut = Some(Cut { sectors_kept: 0, sectors_lost: 0 });
        Ok(())
    }

    /// What the cut did, once there was one.
    pub fn cut(&self) -> Option<Cut> {
        self.locked().cut
    }

    /// Gives the machine its power back.
    pub fn restore_power(&self) {
        self.locked().cut = None;
    }

    fn locked(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve_client(mut stream: UnixStream, disk: &Mutex<Disk>) -> io::Result<()> {
    let size = disk.lock().unwrap_or_else(PoisonError::into_inner).size()?;
    if !handshake(&mut stream, size)? {
        return Ok(());
    }
    while transmit(&mut stream, disk, size)? {}
    Ok(())
}

/// Returns whether the client chose to go on to transmission.
fn handshake(stream: &mut UnixStream, size: u64) -> io::Result<bool> {
    stream.write_all(
        &[&MAGIC_INIT.to_be_bytes()[..], &MAGIC_OPTION.to_be_bytes(), &HANDSHAKE_FLAGS.to_be_bytes()].concat(),
    )?;
    read_array::<4>(stream)?;
    loop {
        if u64::from_be_bytes(read_array(stream)?) != MAGIC_OPTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let option = u32::from_be_bytes(read_array(stream)?);
        let length = u32::from_be_bytes(read_array(stream)?);
        if length > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        io::copy(&mut Read::by_ref(stream).take(length.into()), &mut io::sink())?;
        match option {
            // NBD_OPT_ABORT
            2 => {
                option_reply(stream, option, 1, &[])?;
                return Ok(false);
            }
            // NBD_OPT_INFO and NBD_OPT_GO: NBD_INFO_EXPORT, then NBD_INFO_BLOCK_SIZE, then an acknowledgement.
            6 | 7 => {
                let export = [&0u16.to_be_bytes()[..], &size.to_be_bytes(), &TRANSMISSION_FLAGS.to_be_bytes()].concat();
                option_reply(stream, option, 3, &export)?;
                let (least, preferred) = (512u32, 4096u32);
                let blocks = [
                    &3u16.to_be_bytes()[..],
                    &least.to_be_bytes(),
                    &preferred.to_be_bytes(),
                    &REQUEST_MAX.to_be_bytes(),
                ];
                option_reply(stream, option, 3, &blocks.concat())?;
                option_reply(stream, option, 1, &[])?;
                if option == 7 {
                    return Ok(true);
                }
            }
            // NBD_REP_ERR_UNSUP
            _ => option_reply(stream, option, 0x8000_0001, &[])?,
        }
    }
}

fn option_reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    stream.write_all(
        &[
            &MAGIC_OPTION_REPLY.to_be_bytes()[..],
            &option.to_be_bytes(),
            &kind.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ]
        .concat(),
    )
}

/// Handles one request; false once the client disconnects.
fn transmit(stream: &mut UnixStream, disk: &Mutex<Disk>, size: u64) -> io::Result<bool> {
    if u32::from_be_bytes(read_array(stream)?) != MAGIC_REQUEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let flags = u16::from_be_bytes(read_array(stream)?);
    let command = u16::from_be_bytes(read_array(stream)?);
    let cookie: [u8; 8] = read_array(stream)?;
    let offset = u64::from_be_bytes(read_array(stream)?);
    let length = u32::from_be_bytes(read_array(stream)?);
    let inside = offset.checked_add(length.into()).is_some_and(|end| end <= size);
    if (length > REQUEST_MAX || !inside) && command <= 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let locked = || disk.lock().unwrap_or_else(PoisonError::into_inner);
    if locked().cut.is_some() {
        wait_for_power(disk);
        return Ok(false);
    }
    let mut data = vec![0; if command <= 1 { length as usize } else { 0 }];
    match command {
        0 => locked().read(offset, &mut data)?,
        1 => {
            stream.read_exact(&mut data)?;
            let mut disk = locked();
            disk.write(offset, &data)?;
            if flags & COMMAND_FLAG_FUA != 0 {
                disk.flush()?;
            }
            data.clear();
        }
        2 => return Ok(false),
        3 => locked().flush_asked()?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    if locked().cut.is_some() {
        wait_for_power(disk);
        return Ok(false);
    }
    stream.write_all(&[&MAGIC_REPLY.to_be_bytes()[..], &0u32.to_be_bytes(), &cookie].concat())?;
    stream.write_all(&data)?;
    Ok(true)
}

/// A disk without power answers nothing, or its machine would believe in writes that are lost. By the time the power is back,
/// whoever asked is gone.
fn wait_for_power(disk: &Mutex<Disk>) {
    const LOOK: Duration = Duration::from_millis(20);
    while disk.lock().unwrap_or_else(PoisonError::into_inner).cut.is_some() {
        wait::pause(LOOK);
    }
}

fn read_array<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(sectors: u64) -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let file = File::options().read(true).write(true).create_new(true).open(folder.path().join("disk")).unwrap();
        file.set_len(sectors * SECTOR).unwrap();
        (folder, Disk::new(file))
    }

    #[test]
    fn reads_see_what_was_written_before_a_flush() {
        let (_folder, mut disk) = disk(8);
        disk.write(SECTOR, &[7; 1024]).unwrap();
        let mut buffer = [0; 2048];
        disk.read(0, &mut buffer).unwrap();
        assert_eq!(buffer[511..=512], [0, 7]);
        assert_eq!(buffer[1535..=1536], [7, 0]);
    }

    #[test]
    fn a_cut_amid_writes_keeps_all_that_was_flushed_and_a_part_of_the_rest() {
        let (_folder, mut disk) = disk(256);
        disk.write(0, &vec![1; 512 * 128]).unwrap();
        disk.flush().unwrap();
        let served = PowerCutDisk { disk: Arc::new(Mutex::new(disk)), socket: PathBuf::new() };
        served.cut_amid_writes(42);
        assert_eq!(served.cut(), None, "nothing could be lost yet");
        served.locked().write(512 * 128, &vec![2; 512 * 128]).unwrap();
        let cut = served.cut().unwrap();
        assert_eq!(cut.sectors_kept + cut.sectors_lost, 128);
        assert!(cut.sectors_kept > 20 && cut.sectors_lost > 20, "{cut:?}");
        let mut buffer = vec![0; 512 * 256];
        served.locked().read(0, &mut buffer).unwrap();
        assert!(buffer[..512 * 128].iter().all(|&byte| byte == 1));
        let kept = buffer[512 * 128..].chunks(512).filter(|sector| sector.iter().all(|&byte| byte == 2)).count();
        assert_eq!(kept, cut.sectors_kept);
    }

    #[test]
    fn a_cut_comes_with_the_request_that_was_asked_for_and_takes_no_flush_for_one() {
        let (_folder, disk) = disk(256);
        let served = PowerCutDisk { disk: Arc::new(Mutex::new(disk)), socket: PathBuf::new() };
        served.cut_at_request(4, 42);
        served.locked().write(0, &[1; 512 * 32]).unwrap();
        served.locked().flush_asked().unwrap();
        served.locked().write(512 * 32, &[2; 512 * 32]).unwrap();
        assert_eq!((served.requests(), served.cut()), (3, None));
        served.locked().flush_asked().unwrap();
        let cut = served.cut().unwrap();
        assert_eq!(cut.sectors_kept + cut.sectors_lost, 32);
        assert!(cut.sectors_lost > 4, "{cut:?}");
    }

    #[test]
    fn writes_after_a_cut_go_nowhere() {
        let (_folder, mut disk) = disk(8);
        disk.cut(1).unwrap();
        let served = PowerCutDisk { disk: Arc::new(Mutex::new(disk)), socket: PathBuf::new() };
        served.locked().write(0, &[9; 512]).unwrap();
        served.restore_power();
        let mut buffer = [0; 512];
        served.locked().read(0, &mut buffer).unwrap();
        assert_eq!(buffer, [0; 512]);
    }
}
