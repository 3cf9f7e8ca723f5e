//! The power button, read from evdev (Documentation/input/event-codes.rst).
//!
//! Devices that are there when services start are used; a power button does not come later. The kernel must have
//! `CONFIG_INPUT_EVDEV`; without it, or without a button, nothing is opened.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use keelson_sys::poller::{Interest, Poller};
use rustix::fs::{Mode, OFlags};

use super::Source;

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// `struct input_event` on 64-bit: two words of time, type, code, value.
const EVENT_BYTES: usize = 24;

#[derive(Debug, Default)]
pub(super) struct Buttons {
    devices: Vec<OwnedFd>,
}

impl Buttons {
    /// Opens every input device that has a power key.
    pub(super) fn open(poller: &Poller) -> Self {
        let mut devices = Vec::new();
        for entry in fs::read_dir("/sys/class/input").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).unwrap_or_default();
            if !name.as_encoded_bytes().starts_with(b"event") || !has_key(&keys, KEY_POWER) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let path = Path::new("/dev/input").join(&name);
            let Ok(device) = rustix::fs::open(path, flags, Mode::empty()) else { continue };
            if poller.add(&device, Source::Button(devices.len() as u64).token(), Interest::Read).is_ok() {
                devices.push(device);
            }
        }
        Self { devices }
    }

    /// Reads a device. Returns whether its power key went down.
    pub(super) fn pressed(&self, number: u64, poller: &Poller) -> bool {
        let Some(device) = usize::try_from(number).ok().and_then(|number| self.devices.get(number)) else {
            return false;
        };
        let mut pressed = false;
        let mut buffer = [0; EVENT_BYTES * 16];
        loop {
            match rustix::io::read(device, &mut buffer) {
                Ok(count) if count > 0 => {
                    let events = buffer.get(..count).unwrap_or_default();
                    pressed |= events.chunks_exact(EVENT_BYTES).any(is_power_press);
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return pressed,
                // Unplugged: it must not wake the loop for ever.
                Ok(_) | Err(_) => {
                    let _ = poller.remove(device);
                    return pressed;
                }
            }
        }
    }
}

fn is_power_press(event: &[u8]) -> bool {
    let half = |at: usize| event.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let value = event.get(20..24).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    half(16) == Some(EV_KEY) && half(18) == Some(KEY_POWER) && value == Some(1)
}

/// sysfs shows the key bitmap as hexadecimal words of 64 bits, the highest first.
fn has_key(bitmap: &str, key: u16) -> bool {
    let word = bitmap.split_ascii_whitespace().rev().nth(usize::from(key / 64));
    let bits = word.and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap_or_default();
    bits & (1 << (key % 64)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_bitmaps_are_read_from_the_right() {
        // An ACPI power button, and a mouse.
        assert!(has_key("10000000000000 0", KEY_POWER));
        assert!(!has_key("1f0000 0 0 0 0", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
    }

    #[test]
    fn only_the_power_key_going_down_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        assert!(is_power_press(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_power_press(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_power_press(&event(EV_KEY, 30, 1)));
        assert!(!is_power_press(&event(0, KEY_POWER, 1)));
    }
}
