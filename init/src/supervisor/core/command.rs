//! Everything that can happen to the supervisor, and everything it can want done.

use std::time::Duration;

use keelson_control::{Condition, ExitReason, ServiceName, ServiceSet, ShutdownKind};

/// A generation of a service: each spawn gets a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u64);

/// A connection that holds an inhibitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InhibitorId(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,

    // Asked for over the control socket.
    Start {
        service: ServiceName,
    },
    Stop {
        service: ServiceName,
    },
    Restart {
        service: ServiceName,
        reason: String,
    },
    Unhealthy {
        service: ServiceName,
        reason: String,
    },
    /// A set that passed [`ServiceSet::validate`].
    Apply {
        set: ServiceSet,
    },
    Inhibit {
        id: InhibitorId,
        who: String,
        delay_max: Duration,
    },
    Uninhibit {
        id: InhibitorId,
    },
    Shutdown {
        kind: ShutdownKind,
        reason: String,
    },
    /// No more patience: everything is killed now.
    ForceShutdown,

    // Seen by the driver.
    /// A watched condition was looked at for the first time, or changed.
    Condition {
        condition: Condition,
        holds: bool,
    },
    Spawned {
        service: ServiceName,
        run: Run,
        pid: u32,
    },
    /// There is no process, and the cgroup is empty.
    SpawnFailed {
        service: ServiceName,
        run: Run,
        reason: String,
    },
    /// The process has become the service's program.
    Executed {
        service: ServiceName,
        run: Run,
    },
    /// It said that it is ready.
    Notified {
        service: ServiceName,
        run: Run,
    },
    /// It said that it lives.
    Alive {
        service: ServiceName,
        run: Run,
    },
    /// The main process was reaped.
    Exited {
        service: ServiceName,
        run: Run,
        reason: ExitReason,
    },
    /// The cgroup holds no process. Means something only after `Exited`; the driver looks again after each `KillAll`.
    Emptied {
        service: ServiceName,
        run: Run,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        service: ServiceName,
        run: Run,
    },
    /// SIGTERM to the main process.
    Terminate {
        service: ServiceName,
    },
    /// SIGKILL to everything in the cgroup. Answered by `Emptied` as soon as nothing is left.
    KillAll {
        service: ServiceName,
        run: Run,
    },
    /// Look at it now and answer by `Condition`, then report changes.
    Watch {
        condition: Condition,
    },
    Unwatch {
        condition: Condition,
    },
    /// The service is gone: give back its cgroup and its log pipe.
    Forget {
        service: ServiceName,
    },
    /// For the console and for subscribers.
    Changed {
        service: ServiceName,
        change: Change,
    },
    ShutdownBegun {
        kind: ShutdownKind,
        reason: String,
        inhibitors: Vec<String>,
        inhibitors_deadline: Duration,
    },
    /// All is stopped, except what could not be.
    ShutdownComplete {
        kind: ShutdownKind,
        reason: String,
        left: Vec<ServiceName>,
    },
}

/// What became of a service, in the words of a person who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Said after a while, and again at growing distances.
    Waiting {
        reason: String,
        since: Duration,
    },
    Starting,
    Ready {
        after: Duration,
    },
    Stopping {
        cause: StopCause,
    },
    /// The main process ended without being asked to.
    Ended {
        reason: ExitReason,
    },
    /// Its processes outlive SIGKILL (state D) for now.
    Lingers,
    Stopped,
    Done,
    Backoff {
        reason: String,
        delay: Duration,
    },
    Failed {
        reason: String,
        retry: Option<Duration>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopCause {
    Requested,
    Changed,
    Removed,
    Restart {
        reason: String,
    },
    Unhealthy {
        reason: String,
    },
    StartTimeout,
    /// It has not said that it lives.
    Silent,
    Shutdown,
}

impl std::fmt::Display for StopCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requested => f.write_str("asked to"),
            Self::Changed => f.write_str("its specification changed"),
            Self::Removed => f.write_str("it is no longer wanted"),
            Self::Restart { reason } => write!(f, "restart: {reason}"),
            Self::Unhealthy { reason } => write!(f, "unhealthy: {reason}"),
            Self::StartTimeout => f.write_str("it did not become ready in time"),
            Self::Silent => f.write_str("it no longer says that it lives"),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}
