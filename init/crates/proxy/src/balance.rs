//! In which order API servers are tried for a new connection: a pure function.
//!
//! The node's own comes first while it is ready: that saves a way through the network, and a load balancer's work. The
//! other ready ones follow, beginning with another one each time, so that long watches spread. Those that are not known
//! to be ready come last and are not left out: if all are thought to be bad, one of the thoughts is wrong or soon will be.

use crate::health::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub state: State,
    pub local: bool,
    /// Connections that it has now.
    pub connections: u64,
}

/// Indices of `candidates` in the order to try. `turn` is another number for each connection.
pub fn order(candidates: &[Candidate], turn: usize) -> Vec<usize> {
    let count = candidates.len().max(1);
    let rank = |candidate: &Candidate| match candidate.state {
        State::Ready if candidate.local => 0,
        State::Ready => 1,
        State::Unknown => 2,
        State::NotReady => 3,
        State::Dead => 4,
    };
    let mut indices: Vec<_> = candidates.iter().enumerate().collect();
    // Fewest connections first among equals, so that one that is new or came back gets its share; then by turns.
    indices.sort_by_key(|(index, candidate)| (rank(candidate), candidate.connections, (index + turn) % count));
    indices.into_iter().map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(state: State, local: bool) -> Candidate {
        Candidate { state, local, connections: 0 }
    }

    #[test]
    fn the_nodes_own_comes_first_while_it_is_ready() {
        let mut candidates = [candidate(State::Ready, false), candidate(State::Ready, true)];
        assert_eq!(order(&candidates, 0), [1, 0]);
        candidates[1].state = State::Dead;
        assert_eq!(order(&candidates, 0), [0, 1]);
    }

    #[test]
    fn those_that_are_not_ready_come_last_and_are_not_left_out() {
        let states = [State::Dead, State::NotReady, State::Unknown, State::Ready];
        assert_eq!(order(&states.map(|state| candidate(state, false)), 0), [3, 2, 1, 0]);
        assert_eq!(order(&[candidate(State::Dead, true), candidate(State::Dead, false)], 0).len(), 2);
    }

    #[test]
    fn equals_take_turns_and_the_one_with_fewer_connections_is_first() {
        let mut candidates = [candidate(State::Ready, false); 3];
        let firsts: std::collections::BTreeSet<_> = (0..3).map(|turn| order(&candidates, turn)[0]).collect();
        assert_eq!(firsts.len(), 3);
        candidates[0].connections = 5;
        candidates[1].connections = 5;
        assert!((0..3).all(|turn| order(&candidates, turn)[0] == 2), "one that is new gets its share");
    }
}
