//! What this process uses, from `/proc/self` (`proc_pid_stat(5)`).

use std::fs;

/// Linux gives processor times in hundredths of a second to user space on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// x86-64 and arm64 as we build for them.
const PAGE_BYTES: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) open_files: usize,
    pub(crate) start_seconds: f64,
}

pub(crate) fn read() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let open_files = fs::read_dir("/proc/self/fd").ok()?.count();
    parse(&stat, boot, open_files)
}

fn parse(stat: &str, boot: f64, open_files: usize) -> Option<Usage> {
    // The second field is the name in parentheses, which may contain anything; what follows is field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Usage {
        cpu_seconds: ticks(14)? + ticks(15)?,
        start_seconds: boot + ticks(22)?,
        virtual_bytes: number(23)?,
        resident_bytes: number(24)? * PAGE_BYTES,
        open_files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = read().unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.virtual_bytes > usage.resident_bytes);
        assert!(usage.open_files >= 3 && usage.start_seconds > 1e9);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 9 0 1000 8192 2 0";
        let usage = parse(stat, 100.0, 3).unwrap();
        let expected =
            Usage { cpu_seconds: 3.0, start_seconds: 110.0, virtual_bytes: 8192, resident_bytes: 8192, open_files: 3 };
        assert_eq!(usage, expected);
        assert_eq!(parse("7 (a", 0.0, 0), None);
        assert_eq!(parse("7 (a) S 1", 0.0, 0), None);
    }
}
