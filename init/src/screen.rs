//! The overview of a node for whoever stands before it: who it is, how far it has come, what waits for what and since when, and what went
//! wrong last. Pure: facts in, lines out.

use std::collections::VecDeque;
use std::time::Duration;

use keelson_config::Role;
use keelson_control::{Desired, ServiceState, ServiceStatus};
use keelson_init::supervisor::Overview;

/// What does not change while services run.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Of the image.
    pub(crate) version: String,
    /// Which boot of its STATE this is.
    pub(crate) boot: u64,
    /// STATE and DATA are gone after this boot.
    pub(crate) in_memory: bool,
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Size {
    /// Of something that scrolls.
    pub(crate) const UNBOUNDED: Self = Self { rows: usize::MAX, columns: usize::MAX };
}

impl Default for Size {
    /// What every terminal has.
    fn default() -> Self {
        Self { rows: 25, columns: 80 }
    }
}

/// `troubles` are the last warnings and errors, the newest first.
pub(crate) fn compose(
    identity: &Identity,
    overview: &Overview<'_>,
    troubles: &VecDeque<String>,
    up: Duration,
    size: Size,
) -> Vec<String> {
    let mut lines = vec![head(identity, up)];
    lines.extend(overview.cluster.lines().map(str::to_owned));
    lines.push(String::new());
    lines.push(progress(overview));
    // The last row stays free: a line's end there would scroll.
    let space = size.rows.saturating_sub(1);
    let for_troubles = if troubles.is_empty() { 0 } else { troubles.len() + 2 };
    lines.extend(services(overview, space.saturating_sub(lines.len() + for_troubles)));
    if !troubles.is_empty() {
        lines.push(String::new());
        lines.push("Last warnings and errors:".to_owned());
        lines.extend(troubles.iter().cloned());
    }
    lines.truncate(space);
    lines.into_iter().map(|line| line.chars().take(size.columns).collect()).collect()
}

fn head(identity: &Identity, up: Duration) -> String {
    let Identity { name, role, version, boot, in_memory } = identity;
    let memory = if *in_memory { ", nothing outlives it" } else { "" };
    format!("Keelson {version}: {name}, {role}; boot {boot}{memory}, up {}", span(up))
}

fn progress(overview: &Overview<'_>) -> String {
    if let Some(kind) = overview.ending {
        return format!("Services are being stopped: {kind}");
    }
    let wanted = overview.services.iter().filter(|service| service.desired == Desired::Up);
    let (fine, others): (Vec<_>, Vec<_>) = wanted.partition(|service| is_fine(service));
    match others.len() {
        0 => format!("All {} services are ready.", fine.len()),
        count => format!("Ready are {} of {} services.", fine.len(), fine.len() + count),
    }
}

/// A line each, those that are not as they should be first; no more than there is space for.
fn services(overview: &Overview<'_>, space: usize) -> Vec<String> {
    let (fine, others): (Vec<_>, Vec<_>) = overview.services.iter().partition(|service| is_fine(service));
    let mut lines: Vec<String> = others.into_iter().chain(fine).map(|service| line(service, overview)).collect();
    if lines.len() > space {
        let hidden = lines.len() - space.saturating_sub(1);
        lines.truncate(space.saturating_sub(1));
        lines.push(format!("  and {hidden} more"));
    }
    lines
}

fn is_fine(service: &ServiceStatus) -> bool {
    matches!(service.state, ServiceState::Ready | ServiceState::Done)
}

fn line(service: &ServiceStatus, overview: &Overview<'_>) -> String {
    let said = overview.words.get(&service.name).copied().unwrap_or_default();
    let mut text = match (&service.waiting_for, &service.reason) {
        (Some(awaited), _) => format!("for {awaited}"),
        (None, Some(reason)) => reason.clone(),
        (None, None) => said.to_owned(),
    };
    if service.restarts > 0 {
        let times = if service.restarts == 1 { "once".to_owned() } else { format!("{} times", service.restarts) };
        text = if text.is_empty() { format!("restarted {times}") } else { format!("{text} (restarted {times})") };
    }
    let since = span(Duration::from_millis(service.in_state_milliseconds));
    let line = format!("  {:<23} {:<9} {since:>10}  {text}", service.name.as_str(), state(service.state));
    line.trim_end().to_owned()
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Stopped => "stopped",
        ServiceState::Waiting => "waiting",
        ServiceState::Starting => "starting",
        ServiceState::Ready => "ready",
        ServiceState::Stopping => "stopping",
        ServiceState::Backoff => "backoff",
        ServiceState::Done => "done",
        ServiceState::Failed => "failed",
    }
}

/// As coarse as a screen that changes seldom needs it.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keelson_control::{ServiceName, ShutdownKind};

    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "cp1".to_owned(),
            role: Role::ControlPlane,
            version: "0.1.0".to_owned(),
            boot: 3,
            in_memory: false,
        }
    }

    fn service(name: &str, state: ServiceState, seconds: u64) -> ServiceStatus {
        ServiceStatus {
            in_state_milliseconds: seconds * 1000,
            ..ServiceStatus::new(ServiceName::new(name).unwrap(), state)
        }
    }

    fn overview(services: Vec<ServiceStatus>) -> Overview<'static> {
        Overview { services, words: BTreeMap::new(), cluster: "", ending: None }
    }

    const UP: Duration = Duration::from_mins(125);

    #[test]
    fn shows_who_it_is_and_what_is_not_as_it_should_be_first() {
        let network = ServiceName::new("network").unwrap();
        let waiting = ServiceStatus {
            waiting_for: Some("file /run/keelson/cluster/kubelet.yaml".to_owned()),
            ..service("kubelet", ServiceState::Waiting, 32)
        };
        let store = ServiceStatus {
            reason: Some("was killed by SIGKILL".to_owned()),
            restarts: 2,
            ..service("store", ServiceState::Backoff, 4)
        };
        let overview = Overview {
            words: [(&network, "node address 10.0.2.15")].into(),
            cluster: "cluster manager: https://10.0.2.15:6400\nfingerprint 1234",
            ..overview(vec![service("network", ServiceState::Ready, 7200), waiting, store])
        };
        let troubles = VecDeque::from(["keelson   32.100s  store         ERROR: no".to_owned()]);
        let expected = "\
Keelson 0.1.0: cp1, control-plane; boot 3, up 2 h 5 min
cluster manager: https://10.0.2.15:6400
fingerprint 1234

Ready are 1 of 3 services.
  kubelet                 waiting         32 s  for file /run/keelson/cluster/kubelet.yaml
  store                   backoff          4 s  was killed by SIGKILL (restarted 2 times)
  network                 ready      2 h 0 min  node address 10.0.2.15

Last warnings and errors:
keelson   32.100s  store         ERROR: no";
        assert_eq!(compose(&identity(), &overview, &troubles, UP, Size::UNBOUNDED).join("\n"), expected);
    }

    #[test]
    fn keeps_to_a_screen_and_leaves_out_what_is_well() {
        let many = (0..40).map(|number| service(&format!("a{number:02}"), ServiceState::Ready, 10));
        let ill = ServiceStatus { reason: Some("x".repeat(200)), ..service("z", ServiceState::Failed, 10) };
        let overview = overview(many.chain([ill]).collect());
        let troubles = VecDeque::from(["trouble".to_owned()]);
        let lines = compose(&identity(), &overview, &troubles, UP, Size::default());
        assert_eq!(lines.len(), 24);
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
        assert!(lines[3].starts_with("  z                       failed"), "{lines:#?}");
        assert_eq!(lines[20], "  and 24 more");
        assert_eq!(lines[23], "trouble");
        for rows in 0..8 {
            assert!(compose(&identity(), &overview, &troubles, UP, Size { rows, columns: 3 }).len() <= rows);
        }
    }

    #[test]
    fn says_when_all_is_well_and_when_it_ends() {
        let mut overview = overview(vec![service("a", ServiceState::Ready, 1), service("b", ServiceState::Done, 1)]);
        assert_eq!(progress(&overview), "All 2 services are ready.");
        overview.ending = Some(ShutdownKind::Reboot);
        assert_eq!(progress(&overview), "Services are being stopped: reboot");
    }
}
