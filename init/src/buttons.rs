//! The power button, read from evdev (Documentation/input/event-codes.rst).
//!
//! Devices that are there when they are opened are used; a power button does not come later. What is pressed from then on waits to be
//! read. The kernel must have `CONFIG_INPUT_EVDEV`; without it, or without a button, nothing is opened.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// `struct input_event` on 64-bit: two words of time, type, code, value.
const EVENT_BYTES: usize = 24;

#[derive(Debug, Default)]
pub struct Buttons {
    devices: Vec<OwnedFd>,
}

impl Buttons {
    /// Opens every input device that has a power key.
    pub fn open() -> Self {
        let mut devices = Vec::new();
        for entry in fs::read_dir("/sys/class/input").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).unwrap_or_default();
            if !name.as_encoded_bytes().starts_with(b"event") || !has_key(&keys, KEY_POWER) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            devices.extend(rustix::fs::open(Path::new("/dev/input").join(&name), flags, Mode::empty()));
        }
        Self::of(devices)
    }

    pub fn of(devices: Vec<OwnedFd>) -> Self {
        Self { devices }
    }

    /// What becomes readable when one is pressed.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.devices.iter().map(AsFd::as_fd)
    }

    /// Reads all of them. Returns whether a power key went down since it was last asked.
    pub fn pressed(&mut self) -> bool {
        let mut pressed = false;
        // One that was unplugged is closed: it must not be readable for ever.
        self.devices.retain(|device| {
            let mut buffer = [0; EVENT_BYTES * 16];
            loop {
                match rustix::io::read(device, &mut buffer) {
                    Ok(count) if count > 0 => {
                        let events = buffer.get(..count).unwrap_or_default();
                        pressed |= events.chunks_exact(EVENT_BYTES).any(is_power_press);
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                    Ok(_) | Err(_) => return false,
                }
            }
        });
        pressed
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
    fn a_press_is_told_once_and_a_device_that_ended_is_closed() {
        let (device, kernel) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut buttons = Buttons { devices: vec![device] };
        assert!(!buttons.pressed());
        rustix::io::write(&kernel, &event(EV_KEY, KEY_POWER, 1)).unwrap();
        assert!(buttons.pressed());
        assert!(!buttons.pressed());
        drop(kernel);
        assert!(!buttons.pressed());
        assert_eq!(buttons.descriptors().count(), 0);
    }

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn key_bitmaps_are_read_from_the_right() {
        // An ACPI power button, and a mouse.
        assert!(has_key("10000000000000 0", KEY_POWER));
        assert!(!has_key("1f0000 0 0 0 0", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
    }

    #[test]
    fn only_the_power_key_going_down_counts() {
        assert!(is_power_press(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_power_press(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_power_press(&event(EV_KEY, 30, 1)));
        assert!(!is_power_press(&event(0, KEY_POWER, 1)));
    }
}
