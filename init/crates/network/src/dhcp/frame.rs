//! Ethernet, IPv4 and UDP around a DHCP message: what the kernel would do, had the link an address.
//!
//! The UDP checksum of what comes in is not verified: a packet that never leaves the host (virtio, veth) carries only a
//! partial one, which the hardware was to complete. Ethernet has a checksum of its own, and IPv4's header is verified.

use std::net::Ipv4Addr;

use keelson_config::MacAddress;
use socket2::SockFilter;

const ETHERNET: usize = 14;
const IPV4_MIN: usize = 20;
const UDP: usize = 8;
const PROTOCOL_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;
const TIME_TO_LIVE: u8 = 64;

/// A frame from this link to everyone, from no address to every address.
pub fn broadcast(mac: MacAddress, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + IPV4_MIN + UDP + payload.len());
    frame.extend([0xff; 6]);
    frame.extend(mac.0);
    frame.extend(PROTOCOL_IPV4);
    frame.extend(ipv4_header(UDP + payload.len()));
    frame.extend(udp_header(payload));
    frame.extend(payload);
    frame
}

fn ipv4_header(payload: usize) -> [u8; IPV4_MIN] {
    let [high, low] = length_bytes(IPV4_MIN + payload);
    let mut header = [0x45, 0, high, low, 0, 0, 0, 0, TIME_TO_LIVE, PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    let [sum_high, sum_low] = checksum(&[&header]).to_be_bytes();
    header[10] = sum_high;
    header[11] = sum_low;
    header
}

fn udp_header(payload: &[u8]) -> [u8; UDP] {
    let [high, low] = length_bytes(UDP + payload.len());
    let [from_high, from_low] = CLIENT_PORT.to_be_bytes();
    let [to_high, to_low] = SERVER_PORT.to_be_bytes();
    let header = [from_high, from_low, to_high, to_low, high, low, 0, 0];
    let pseudo = [0, 0, 0, 0, 255, 255, 255, 255, 0, PROTOCOL_UDP, high, low];
    // Zero would mean "no checksum"; its other form in ones' complement is all ones (RFC 768).
    let sum = match checksum(&[&pseudo, &header, payload]) {
        0 => u16::MAX,
        sum => sum,
    };
    let [sum_high, sum_low] = sum.to_be_bytes();
    [from_high, from_low, to_high, to_low, high, low, sum_high, sum_low]
}

/// Our messages are a few hundred bytes.
fn length_bytes(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// RFC 1071. Only the last part may have an odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or_default();
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u32::from(u16::from_be_bytes([high, low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The DHCP message in a frame, and who sent it; `None` if it is no message from a server to a client.
pub fn payload(frame: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    if frame.get(12..14)? != PROTOCOL_IPV4 {
        return None;
    }
    let packet = frame.get(ETHERNET..)?;
    let first = *packet.first()?;
    let header_length = usize::from(first & 0x0f) * 4;
    let header = packet.get(..header_length)?;
    if first >> 4 != 4 || header_length < IPV4_MIN || checksum(&[header]) != 0 {
        return None;
    }
    let fragment = u16_at(header, 6)? & 0x3fff;
    if *header.get(9)? != PROTOCOL_UDP || fragment != 0 {
        return None;
    }
    // The frame may be padded behind the packet.
    let datagram = packet.get(header_length..usize::from(u16_at(header, 2)?))?;
    if u16_at(datagram, 0)? != SERVER_PORT || u16_at(datagram, 2)? != CLIENT_PORT {
        return None;
    }
    let source: [u8; 4] = header.get(12..16)?.try_into().ok()?;
    Some((source.into(), datagram.get(UDP..usize::from(u16_at(datagram, 4)?))?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A BPF program (Documentation/networking/filter.rst) that lets through what [`payload`] could take, so that a busy
/// link does not wake the daemon with every packet.
pub fn filter() -> [SockFilter; 11] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_HALF_INDEXED: u16 = 0x48;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 8, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(JUMP_IF_EQUAL, 0, 6, u32::from(PROTOCOL_UDP)),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(JUMP_IF_SET, 4, 0, 0x1fff),
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 14),
        SockFilter::new(LOAD_HALF_INDEXED, 0, 0, 16),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(CLIENT_PORT)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);

    /// What we send, with the ports turned around: a server's answer.
    fn answer(payload: &[u8]) -> Vec<u8> {
        let mut frame = broadcast(MAC, payload);
        frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
        frame
    }

    #[test]
    fn reads_an_answer_and_ignores_padding() {
        let mut frame = answer(b"hello");
        assert_eq!(payload(&frame), Some((Ipv4Addr::UNSPECIFIED, &b"hello"[..])));
        frame.extend([0; 20]);
        assert_eq!(payload(&frame).unwrap().1, b"hello");
    }

    #[test]
    fn refuses_other_traffic() {
        assert_eq!(payload(&broadcast(MAC, b"hello")), None, "a client's message");
        for (at, value, what) in [
            (12, 0x86, "IPv6"),
            (14, 0x65, "version 6"),
            (14, 0x44, "a header of 16 bytes"),
            (20, 0x20, "a first fragment"),
            (21, 0x01, "a later fragment"),
            (22, 0x01, "a broken header checksum"),
            (23, 6, "TCP"),
            (35, 66, "another port"),
            (39, 99, "a datagram that is longer than the packet"),
        ] {
            let mut frame = answer(b"hello");
            frame[at] = value;
            if at != 22 {
                frame[24..26].fill(0);
                let sum = checksum(&[&frame[14..34]]).to_be_bytes();
                frame[24..26].copy_from_slice(&sum);
            }
            assert_eq!(payload(&frame), None, "{what}");
        }
    }

    #[test]
    fn checksums_are_right() {
        let frame = broadcast(MAC, b"odd");
        assert_eq!(checksum(&[&frame[14..34]]), 0);
        let pseudo = [0, 0, 0, 0, 255, 255, 255, 255, 0, 17, 0, 11];
        assert_eq!(checksum(&[&pseudo, &frame[34..]]), 0);
        // RFC 1071's example.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    proptest! {
        #[test]
        fn never_panics(frame in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = payload(&frame);
        }

        #[test]
        fn what_was_wrapped_is_unwrapped(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let frame = answer(&bytes);
            prop_assert_eq!(payload(&frame).map(|(_, payload)| payload), Some(&bytes[..]));
        }
    }
}
