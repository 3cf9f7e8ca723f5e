//! The kernel's log records, as /dev/kmsg gives them: one record a read.
//!
//! A record is `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,…];TEXT\n`, followed by lines ` KEY=VALUE` that describe a device,
//! which are left out here. The kernel has escaped control characters already.
//! <https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg>

use std::time::Duration;

/// One record's parts that are kept.
#[derive(Debug, Eq, PartialEq)]
pub struct Record<'a> {
    pub level: Level,
    /// Since boot, on the clock that printk uses (close to `CLOCK_MONOTONIC`).
    pub since_boot: Duration,
    pub text: &'a str,
}

/// syslog's severities.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Level(u8);

impl Level {
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "emergency",
            1 => "alert",
            2 => "critical",
            3 => "error",
            4 => "warning",
            5 => "notice",
            6 => "info",
            _ => "debug",
        }
    }
}

/// Reads a record; `None` when it has another form.
pub fn parse(record: &str) -> Option<Record<'_>> {
    let (prefix, body) = record.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let _sequence: u64 = fields.next()?.parse().ok()?;
    let microseconds: u64 = fields.next()?.parse().ok()?;
    let text = body.lines().next().unwrap_or_default();
    // The three low bits are the severity, the rest is the facility.
    let level = Level(u8::try_from(priority & 7).unwrap_or(7));
    Some(Record { level, since_boot: Duration::from_micros(microseconds), text })
}

impl Record<'_> {
    /// The record as the text of a log line, with the kernel's own time in its usual form.
    pub fn to_line(&self) -> String {
        let seconds = self.since_boot.as_secs();
        format!("{}: [{seconds:5}.{:06}] {}", self.level.name(), self.since_boot.subsec_micros(), self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_documented_examples() {
        let record = parse(
            "7,160,424069,-;pci_root PNP0A03:00: host bridge window\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
        )
        .expect("a record");
        assert_eq!(record.level.name(), "debug");
        assert_eq!(record.since_boot, Duration::from_micros(424_069));
        assert_eq!(record.text, "pci_root PNP0A03:00: host bridge window");
        assert_eq!(record.to_line(), "debug: [    0.424069] pci_root PNP0A03:00: host bridge window");
    }

    #[test]
    fn takes_further_fields_and_facilities() {
        let record = parse("30,2,1000001,c,caller=T1;init: a; b\n").expect("a record");
        assert_eq!(record.level.name(), "info");
        assert_eq!(record.text, "init: a; b");
        assert_eq!(record.to_line(), "info: [    1.000001] init: a; b");
    }

    #[test]
    fn other_forms_are_no_records() {
        for record in ["", ";", "a,b,c;d", "6,1;text", "no semicolon", "6,1,-5,-;text"] {
            assert_eq!(parse(record), None, "{record:?}");
        }
    }
}
