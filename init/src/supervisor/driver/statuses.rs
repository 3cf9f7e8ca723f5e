//! What services say of themselves (`STATUS=`), for the console: each text once until it changes, and few of them.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_control::ServiceName;

/// A service whose words would hide those of all others is not shown until the window is over.
const LINES_PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Statuses {
    last: BTreeMap<ServiceName, Status>,
}

#[derive(Debug)]
struct Status {
    said: String,
    shown: String,
    window_began: Duration,
    lines: u32,
}

impl Statuses {
    /// Whether `text` is to be shown now.
    pub(super) fn is_news(&mut self, service: &ServiceName, text: &str, now: Duration) -> bool {
        let last = self.last.entry(service.clone()).or_insert(Status {
            said: String::new(),
            shown: String::new(),
            window_began: now,
            lines: 0,
        });
        text.clone_into(&mut last.said);
        if now.saturating_sub(last.window_began) >= WINDOW {
            (last.window_began, last.lines) = (now, 0);
        }
        if last.shown == text || last.lines >= LINES_PER_WINDOW {
            return false;
        }
        last.lines += 1;
        text.clone_into(&mut last.shown);
        true
    }

    /// What each service said last, shown or not.
    pub(super) fn last(&self) -> BTreeMap<&ServiceName, &str> {
        self.last.iter().map(|(service, last)| (service, last.said.as_str())).collect()
    }

    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.last.remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shown_once_until_it_changes_and_few_are_shown() {
        let service: ServiceName = "network".parse().unwrap();
        let mut statuses = Statuses::default();
        assert!(statuses.is_news(&service, "no carrier", Duration::ZERO));
        assert!(!statuses.is_news(&service, "no carrier", Duration::ZERO));
        let shown = (0..100).filter(|n| statuses.is_news(&service, &n.to_string(), Duration::ZERO)).count();
        assert_eq!(shown, 9);
        assert_eq!(statuses.last()[&service], "99");
        assert!(statuses.is_news(&service, "up", WINDOW));
    }
}
