//! Makes a failing history short enough to be read: parts of it are left out as long as the rest fails too.

use std::time::{Duration, Instant};

/// Each try is a run on servers of its own. What is left when the time is over is a failing history all the same.
const PATIENCE: Duration = Duration::from_mins(15);

/// A part of `items` that still fails, and of which no single one can be left out if there was time to find that out. All of them do.
pub(crate) async fn shrink<T: Clone>(mut items: Vec<T>, mut fails: impl AsyncFnMut(&[T]) -> bool) -> Vec<T> {
    let began = Instant::now();
    let mut size = items.len().div_ceil(2);
    while size > 0 {
        let before = items.len();
        let mut start = 0;
        while start < items.len() {
            if began.elapsed() > PATIENCE {
                return items;
            }
            let end = (start + size).min(items.len());
            let rest = [&items[..start], &items[end..]].concat();
            if fails(&rest).await {
                items = rest;
            } else {
                start = end;
            }
        }
        // Without one, others may have become superfluous.
        size = if size == 1 && items.len() < before { 1 } else { size / 2 };
    }
    items
}

#[cfg(test)]
mod tests {
    use keelson_etcd_api::etcdserverpb as pb;
    use keelson_store::command::Command;

    use super::*;
    use crate::differential::{Action, Setup, find_mismatch};

    #[tokio::test]
    async fn what_matters_is_left() {
        let needed = [3, 4, 777];
        let fails = async |items: &[u32]| needed.iter().all(|one| items.contains(one));
        assert_eq!(shrink((0..1000).collect(), fails).await, needed);
        let never_alone = async |items: &[u32]| items.len() > 1;
        assert_eq!(shrink(vec![1, 2, 3], never_alone).await.len(), 2);
        assert_eq!(shrink(vec![5], async |_: &[u32]| false).await, [5]);
    }

    /// Stands for an error of ours: a value that is stored wrongly.
    fn stores_wrongly(command: Command) -> Command {
        match command {
            Command::Put(request) if request.key == "b" && !request.value.is_empty() => {
                Command::Put(pb::PutRequest { value: "wrong".into(), ..request })
            }
            other => other,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_planted_mismatch_is_found_and_shrunk() {
        let setup = Setup { etcd: None, defect: Some(stores_wrongly) };
        let found = find_mismatch(&setup, 7, 1000).await.expect("a value that is stored wrongly is noticed");
        println!("{found}");
        // The put is enough, for hashes are compared at the end; at most it needs a lease.
        let is_put = |action: &Action| matches!(action, Action::Command(Command::Put(put)) if put.key == "b");
        assert!(found.shortest.len() <= 2 && found.shortest.iter().any(is_put), "{found}");
        let told = found.to_string();
        assert!(told.contains("KEELSON_SEED=7") && told.contains("Put"), "{told}");
        // Without the defect there is nothing to find in what is left.
        assert_eq!(find_mismatch(&Setup { etcd: None, defect: None }, 7, found.step as u64 + 1).await, None);
    }
}
