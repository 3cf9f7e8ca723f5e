//! NTP's packet (RFC 5905, 7.3) as far as a client needs it: 48 bytes, of which it fills two fields and reads ten.

/// Nanoseconds since the epoch, or between two moments.
pub type Nanoseconds = i64;

pub const SECOND: Nanoseconds = 1_000_000_000;
const PACKET: usize = 48;
/// Extension fields and authenticators behind the packet are not looked at.
pub const REPLY_MAX: usize = 512;
/// Version 4, mode 3 (client).
const REQUEST_HEADER: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;
const LEAP_UNSYNCHRONISED: u8 = 3;
const STRATUM_MAX: u8 = 15;
/// RFC 5905's `MAXDISP`: a server that is this unsure of itself is no server.
const ROOT_DISTANCE_MAX: u64 = 16 << 16;
/// From NTP's epoch, 1900, to Unix's.
const EPOCH_SECONDS: u64 = 2_208_988_800;

/// What an answer says about our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The server's time less ours.
    pub offset: Nanoseconds,
    /// The time on the way, which is also the most that the offset may be wrong by, twice over.
    pub delay: Nanoseconds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("it is no answer to the question")]
    NotOurs,
    #[error("the server has no time")]
    Unsynchronised,
    #[error("the server asks to be left alone ({})", .0.escape_ascii())]
    KissOfDeath([u8; 4]),
}

/// A question. All fields that tell about the client stay zero (RFC 8915's advice, and draft-ietf-ntp-data-minimization).
pub fn request(cookie: u64) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    if let Some(first) = packet.first_mut() {
        *first = REQUEST_HEADER;
    }
    if let Some(transmit) = packet.last_chunk_mut::<8>() {
        *transmit = cookie.to_be_bytes();
    }
    packet
}

/// Reads an answer to the question that was sent at `sent` by the wall clock and took `elapsed` to be answered.
pub fn reply(bytes: &[u8], cookie: u64, sent: Nanoseconds, elapsed: Nanoseconds) -> Result<Sample, Rejection> {
    let packet: &[u8; PACKET] = bytes.first_chunk().ok_or(Rejection::NotOurs)?;
    let [header, stratum, ..] = *packet;
    let (leap, version, mode) = (header >> 6, header >> 3 & 7, header & 7);
    if mode != MODE_SERVER || !(3..=4).contains(&version) || u64_at(packet, 24) != cookie {
        return Err(Rejection::NotOurs);
    }
    if stratum == 0 {
        let code = packet.get(12..16).and_then(|code| code.try_into().ok()).unwrap_or_default();
        return Err(Rejection::KissOfDeath(code));
    }
    let (received, transmitted) = (u64_at(packet, 32), u64_at(packet, 40));
    let distance = u64_at(packet, 4);
    // Root delay and root dispersion stand side by side, each in sixteenths of sixteen bits.
    let distance = (distance >> 32) / 2 + (distance & 0xffff_ffff);
    if leap == LEAP_UNSYNCHRONISED || stratum > STRATUM_MAX || transmitted == 0 || distance > ROOT_DISTANCE_MAX {
        return Err(Rejection::Unsynchronised);
    }
    let (received, transmitted) = (from_ntp(received), from_ntp(transmitted));
    let back = sent.saturating_add(elapsed);
    // RFC 5905, figure 17; the halves are added, as the whole may not fit.
    let there = received.saturating_sub(sent);
    let here = transmitted.saturating_sub(back);
    let offset = there / 2 + here / 2;
    let delay = elapsed.saturating_sub(transmitted.saturating_sub(received)).max(0);
    if transmitted < received || delay > elapsed {
        return Err(Rejection::Unsynchronised);
    }
    Ok(Sample { offset, delay })
}

fn u64_at(packet: &[u8; PACKET], at: usize) -> u64 {
    packet.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u64::from_be_bytes).unwrap_or_default()
}

/// A timestamp's seconds wrap in 2036. The first era's first half lies before 1968, so a timestamp with its highest bit
/// clear is of the era that follows.
fn from_ntp(timestamp: u64) -> Nanoseconds {
    let seconds = timestamp >> 32;
    let seconds = if seconds & 1 << 31 == 0 { seconds + (1 << 32) } else { seconds };
    let fraction = ((timestamp & 0xffff_ffff) * SECOND.unsigned_abs()) >> 32;
    let nanoseconds = (seconds - EPOCH_SECONDS.min(seconds)) * SECOND.unsigned_abs() + fraction;
    Nanoseconds::try_from(nanoseconds).unwrap_or(Nanoseconds::MAX)
}

/// A timestamp as a server writes it.
#[cfg(test)]
pub(crate) fn to_ntp(time: Nanoseconds) -> u64 {
    let time = time.unsigned_abs();
    let second = SECOND.unsigned_abs();
    (((time / second + EPOCH_SECONDS) & 0xffff_ffff) << 32) | (((time % second) << 32) / second)
}

#[expect(clippy::cast_precision_loss, reason = "shown to people; the loss is below a microsecond")]
pub fn seconds(nanoseconds: Nanoseconds) -> f64 {
    nanoseconds as f64 / SECOND as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server's answer with the given times.
    pub(crate) fn answer(cookie: u64, received: Nanoseconds, transmitted: Nanoseconds) -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        packet[0] = 4 << 3 | MODE_SERVER;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&cookie.to_be_bytes());
        packet[32..40].copy_from_slice(&to_ntp(received).to_be_bytes());
        packet[40..48].copy_from_slice(&to_ntp(transmitted).to_be_bytes());
        packet
    }

    const NOW: Nanoseconds = 1_800_000_000 * SECOND;

    #[test]
    fn measures_offset_and_delay() {
        // The server is 10 s ahead; 20 ms on each way, 1 ms in the server.
        let milli = SECOND / 1000;
        let answer = answer(7, NOW + 10 * SECOND + 20 * milli, NOW + 10 * SECOND + 21 * milli);
        let sample = reply(&answer, 7, NOW, 41 * milli).unwrap();
        assert!((sample.offset - 10 * SECOND).abs() < 1000, "{sample:?}");
        assert!((sample.delay - 40 * milli).abs() < 1000, "{sample:?}");
    }

    #[test]
    fn refuses_what_is_no_answer() {
        let good = answer(7, NOW, NOW);
        assert_eq!(reply(&good, 8, NOW, 1), Err(Rejection::NotOurs), "another question's");
        assert_eq!(reply(&good[..47], 7, NOW, 1), Err(Rejection::NotOurs), "short");
        let changed = |at: usize, value: u8| {
            let mut packet = good;
            packet[at] = value;
            reply(&packet, 7, NOW, 1)
        };
        assert_eq!(changed(0, 4 << 3 | 3), Err(Rejection::NotOurs), "a client's");
        assert_eq!(changed(0, 3 << 6 | 4 << 3 | 4), Err(Rejection::Unsynchronised));
        assert_eq!(changed(1, 16), Err(Rejection::Unsynchronised));
        assert_eq!(changed(5, 200), Err(Rejection::Unsynchronised), "a root delay of minutes");
        let mut kiss = good;
        kiss[1] = 0;
        kiss[12..16].copy_from_slice(b"RATE");
        assert_eq!(reply(&kiss, 7, NOW, 1), Err(Rejection::KissOfDeath(*b"RATE")));
    }

    #[test]
    fn knows_the_time_after_2036() {
        for time in [NOW, 2_085_978_496 * SECOND, 2_085_978_495 * SECOND, 4_000_000_000 * SECOND] {
            assert_eq!(from_ntp(to_ntp(time)), time);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), sent: i64, elapsed in 0i64..) {
            let mut bytes = bytes;
            let cookie = bytes.get(24..32).map_or(0, |cookie| u64::from_be_bytes(cookie.try_into().unwrap()));
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0xc0 | 4 << 3 | 4;
            }
            let _ = reply(&bytes, cookie, sent, elapsed);
        }
    }
}
