//! Open files: how many there may be, and who gets how many of them.
//!
//! A connection is an open file, and so is each segment of the log. Were connections not bounded, whoever opens enough of them would leave none
//! for the log, and a store that cannot open its log ends.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the log, the checkpoint, snapshots on their way, and connections to other members.
const OWN: u64 = 256;
/// Members are few. A stranger's connection is one of these until it has said who it is.
const MOST_OF_MEMBERS: u64 = 1024;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) clients: usize,
    pub(crate) members: usize,
}

/// Raises the limit as far as this process may, and divides it; clients get at most what they are to have.
pub(crate) fn shares(clients: usize) -> Shares {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        // Where this is refused, the limit is what it was.
        _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    }
    divide(limit(), clients)
}

/// How many files there may be open at once.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn divide(files: u64, clients: usize) -> Shares {
    // With so few that not even its own are there, it tries all the same.
    let left = files.saturating_sub(OWN).max(OWN);
    let members = (left / 4).min(MOST_OF_MEMBERS);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Shares { clients: clients.min(count(left - members)), members: count(members) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_store_the_files_that_it_needs() {
        for files in [0, 64, 1024, 4096, 1 << 20, u64::MAX] {
            let Shares { clients, members } = divide(files, 65_536);
            assert!(clients >= 64 && members >= 64, "{files}");
            if files >= 1024 {
                assert!((clients + members) as u64 + OWN <= files, "{files}");
            }
        }
        assert_eq!(divide(65_536, 65_536), Shares { clients: 65_536 - 1024 - 256, members: 1024 });
        assert_eq!(divide(65_536, 100).clients, 100);
    }

    #[test]
    fn the_limit_is_raised_to_what_it_may_be() {
        shares(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
