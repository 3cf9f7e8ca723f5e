//! What a press of ctrl-alt-del or of the power button means: the end of the machine, in order the first time, at once the next.
//!
//! Whoever presses during a shutdown that somebody else began has not been told yet that one is under way: that press says so, and the next
//! one forces.

use std::time::Duration;

use keelson_control::ShutdownKind;

/// A key that is held down repeats, and one press can come from several devices: what follows so closely is no press of its own.
const GAP: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Presses {
    last: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Press {
    /// Still the last one.
    Same,
    AsksForTheEnd,
    /// It is to be said that this is under way.
    FindsUnderWay(ShutdownKind),
    Forces,
}

impl Presses {
    pub(super) fn press(&mut self, now: Duration, under_way: Option<ShutdownKind>) -> Press {
        match (self.last.replace(now), under_way) {
            (Some(last), _) if now.saturating_sub(last) < GAP => Press::Same,
            (_, None) => Press::AsksForTheEnd,
            (None, Some(kind)) => Press::FindsUnderWay(kind),
            (Some(_), Some(_)) => Press::Forces,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REBOOT: Option<ShutdownKind> = Some(ShutdownKind::Reboot);

    #[test]
    fn first_press_asks_and_the_next_forces() {
        let mut presses = Presses::default();
        assert_eq!(presses.press(Duration::from_secs(9), None), Press::AsksForTheEnd);
        assert_eq!(presses.press(Duration::from_secs(10), REBOOT), Press::Forces);
        assert_eq!(presses.press(Duration::from_secs(11), REBOOT), Press::Forces);
    }

    #[test]
    fn first_press_in_anothers_shutdown_is_told_of_it() {
        let mut presses = Presses::default();
        assert_eq!(presses.press(Duration::from_secs(9), REBOOT), Press::FindsUnderWay(ShutdownKind::Reboot));
        assert_eq!(presses.press(Duration::from_secs(10), REBOOT), Press::Forces);
    }

    #[test]
    fn key_that_is_held_down_is_one_press() {
        let mut presses = Presses::default();
        assert_eq!(presses.press(Duration::from_secs(9), None), Press::AsksForTheEnd);
        for repeat in 1..100 {
            let now = Duration::from_secs(9) + Duration::from_millis(33) * repeat;
            assert_eq!(presses.press(now, REBOOT), Press::Same);
        }
        assert_eq!(presses.press(Duration::from_secs(13), REBOOT), Press::Forces);
    }
}
