//! Whether a history of a register could have happened one operation at a time.
//!
//! The search of Wing and Gong, with Lowe's memory of what was tried: at each step one operation takes effect whose call came before any other's
//! return. One whose outcome is not known may take effect at any time after its call, or never.

use std::collections::HashSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write(u64),
    Read(u64),
}

impl Action {
    fn value_read(self) -> Option<u64> {
        match self {
            Self::Read(value) => Some(value),
            Self::Write(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub action: Action,
    pub called: u64,
    /// None if it is not known whether a write took effect.
    pub returned: Option<u64>,
}

/// At most 128 operations on a register that begins with 0.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    assert!(history.len() <= 128, "{} operations", history.len());
    // Values are written once. A write of unknown outcome that nobody read may as well not have been, and each would double the search.
    let seen: HashSet<u64> = history.iter().filter_map(|operation| operation.action.value_read()).collect();
    let matters = |operation: &&Operation| match operation.action {
        Action::Write(value) => operation.returned.is_some() || seen.contains(&value),
        Action::Read(_) => true,
    };
    let history: Vec<Operation> = history.iter().filter(matters).copied().collect();
    let known = history.iter().enumerate().filter(|(_, operation)| operation.returned.is_some());
    let wanted = known.fold(0_u128, |set, (number, _)| set | 1 << number);
    let mut tried = HashSet::new();
    let mut next = vec![(0_u128, 0_u64)];
    while let Some((done, value)) = next.pop() {
        if done & wanted == wanted {
            return true;
        }
        if !tried.insert((done, value)) {
            continue;
        }
        let open = || history.iter().enumerate().filter(|(number, _)| done & 1 << number == 0);
        let first_return = open().filter_map(|(_, operation)| operation.returned).min().unwrap_or(u64::MAX);
        for (number, operation) in open().filter(|(_, operation)| operation.called <= first_return) {
            match operation.action {
                Action::Write(written) => next.push((done | 1 << number, written)),
                Action::Read(read) if read == value => next.push((done | 1 << number, value)),
                Action::Read(_) => {}
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, called: u64, returned: u64) -> Operation {
        Operation { action, called, returned: (returned != 0).then_some(returned) }
    }

    #[test]
    fn what_could_have_happened_is_told_from_what_could_not() {
        use Action::{Read, Write};
        let fine = [operation(Write(1), 1, 10), operation(Read(0), 2, 3), operation(Read(1), 4, 5)];
        assert!(is_linearizable(&fine));
        let stale = [operation(Write(1), 1, 2), operation(Read(0), 3, 4)];
        assert!(!is_linearizable(&stale));
        let back = [operation(Write(1), 1, 10), operation(Read(1), 2, 3), operation(Read(0), 4, 5)];
        assert!(!is_linearizable(&back));
        let unknown = [operation(Write(1), 1, 0), operation(Read(0), 2, 3), operation(Read(1), 9, 10)];
        assert!(is_linearizable(&unknown));
        let twice =
            [operation(Write(1), 1, 0), operation(Write(2), 2, 3), operation(Read(1), 4, 5), operation(Read(2), 6, 7)];
        assert!(!is_linearizable(&twice));
    }
}
