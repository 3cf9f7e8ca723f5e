//! What a process uses, read from /proc.

use std::fs;

use keelson_api::Usage;

use crate::paths::Paths;

/// `USER_HZ`, in which proc(5) counts processor time on every architecture that Keelson runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The figures of one process; what cannot be read is absent, since the process may have ended.
pub fn of_process(paths: &Paths, pid: u32) -> Usage {
    let status = fs::read_to_string(paths.at(format!("/proc/{pid}/status"))).unwrap_or_default();
    let stat = fs::read_to_string(paths.at(format!("/proc/{pid}/stat"))).unwrap_or_default();
    Usage {
        resident_bytes: kibibytes(&status, "VmRSS:"),
        anonymous_bytes: kibibytes(&status, "RssAnon:"),
        cpu_seconds: processor_time(&stat),
    }
}

/// Microseconds as seconds. The mantissa of an f64 holds centuries of microseconds.
#[expect(clippy::cast_precision_loss, reason = "below 2^53 there is none")]
pub fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// A line such as `VmRSS:      1234 kB`.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// User and system time, fields 14 and 15; the second field is a name in parentheses that may hold anything.
fn processor_time(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let status = "Name:\tinit\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\nRssFile:\t 1536 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(2 * 1024 * 1024));
        assert_eq!(kibibytes(status, "RssAnon:"), Some(512 * 1024));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        let stat = "1 (a ) b) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 5 0 0";
        assert_eq!(processor_time(stat), Some(2.0));
        assert_eq!(processor_time(""), None);
    }

    #[test]
    fn reads_this_process_and_no_other() {
        let usage = of_process(&Paths::default(), std::process::id());
        assert!(usage.resident_bytes > usage.anonymous_bytes && usage.anonymous_bytes > Some(0), "{usage:?}");
        assert!(usage.cpu_seconds.is_some());
        // Above the largest id that Linux gives (proc(5), pid_max).
        assert_eq!(of_process(&Paths::default(), 1 << 23), Usage::default());
    }
}
