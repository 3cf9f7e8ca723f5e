//! No sequence of events leads into a dead end, or to two processes of one service.
//!
//! A small world plays the driver and the processes: it obeys commands, and random operations make its processes start,
//! crash, ignore signals and leave descendants behind, while random requests come in. After each step the safety
//! properties are checked; at the end the world becomes benign, and then everything that is wanted must come up and
//! everything that is not must be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use keelson_control::{PersistentFailure, Readiness, RestartPolicy, ServiceKind, ServiceState};
use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{Machine, daemon, name};
use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    Start(usize),
    Stop(usize),
    Restart(usize),
    Unhealthy(usize),
    Apply(Vec<Shape>),
    /// A world's event about the process of this service, if it has one.
    Execute(usize),
    Notify(usize),
    Live(usize),
    Crash(usize, i32),
    /// It fails at once, so many times in a row, each time as soon as it is started.
    CrashLoop(usize, u8),
    /// It is ready and says nothing more, so many times in a row.
    HangLoop(usize, u8),
    FailSpawn(usize),
    /// The main process leaves descendants that only a kill ends.
    Breed(usize),
    /// From now on a kill does not end it until the world becomes benign.
    Hang(usize),
    Toggle(usize),
    Inhibit,
    Uninhibit,
    Shutdown,
    Force,
    /// Events of an old generation arrive late.
    Stale(usize),
}

/// A service of a set.
#[derive(Debug, Clone)]
struct Shape {
    service: usize,
    revision: u8,
    kind: ServiceKind,
    restart: RestartPolicy,
    reboots: bool,
    readiness: u8,
    watchdog: bool,
    condition: bool,
    needs: Option<usize>,
    waits: Option<usize>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let kind = prop_oneof![4 => Just(ServiceKind::Daemon), 1 => Just(ServiceKind::OneShot)];
    let restart = prop_oneof![4 => Just(RestartPolicy::Always), 1 => Just(RestartPolicy::OnFailure), 1 => Just(RestartPolicy::Never)];
    let service = 0..NAMES.len();
    let other = || prop_oneof![3 => Just(None), 1 => (0..NAMES.len()).prop_map(Some)];
    let policy = (restart, any::<bool>(), any::<bool>());
    (service, 0..3_u8, kind, policy, 0..3_u8, any::<bool>(), other(), other()).prop_map(
        |(service, revision, kind, (restart, reboots, watchdog), readiness, condition, needs, waits)| Shape {
            service,
            revision,
            kind,
            restart,
            reboots,
            readiness,
            watchdog,
            condition,
            needs,
            waits,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let index = || 0..NAMES.len() + 1;
    prop_oneof![
        6 => (1..20_000_u64).prop_map(Op::Pass),
        2 => index().prop_map(Op::Start),
        2 => index().prop_map(Op::Stop),
        2 => index().prop_map(Op::Restart),
        2 => index().prop_map(Op::Unhealthy),
        3 => vec(shape(), 0..5).prop_map(Op::Apply),
        6 => index().prop_map(Op::Execute),
        4 => index().prop_map(Op::Notify),
        4 => index().prop_map(Op::Live),
        6 => (index(), 0..2).prop_map(|(index, status)| Op::Crash(index, status)),
        1 => (index(), 1..30_u8).prop_map(|(index, times)| Op::CrashLoop(index, times)),
        1 => (index(), 1..60_u8).prop_map(|(index, times)| Op::HangLoop(index, times)),
        1 => index().prop_map(Op::FailSpawn),
        2 => index().prop_map(Op::Breed),
        1 => index().prop_map(Op::Hang),
        3 => (0..2_usize).prop_map(Op::Toggle),
        1 => Just(Op::Inhibit),
        1 => Just(Op::Uninhibit),
        1 => Just(Op::Shutdown),
        1 => Just(Op::Force),
        2 => index().prop_map(Op::Stale),
    ]
}

impl Shape {
    /// Edges go from higher numbers to lower ones only, so a set has no circle; circles across sets remain possible,
    /// because `flip` turns the direction round.
    fn spec(&self, flip: bool) -> ServiceSpec {
        let rank = |index: usize| if flip { NAMES.len() - index } else { index };
        let below =
            |target: &Option<usize>| target.filter(|target| rank(*target) < rank(self.service)).map(|t| name(NAMES[t]));
        let mut conditions = Vec::new();
        if self.condition {
            conditions.push(Condition::FileExists(PathBuf::from("/run/file")));
        }
        conditions.extend(below(&self.waits).map(Condition::ServiceReady));
        let readiness = match (self.kind, self.readiness) {
            (ServiceKind::OneShot, _) | (_, 0) => Readiness::Started,
            (_, 1) => Readiness::Notify,
            _ => Readiness::Socket(PathBuf::from("/run/socket")),
        };
        let has_watchdog = self.watchdog && readiness == Readiness::Notify;
        ServiceSpec {
            kind: self.kind,
            watchdog_seconds: if has_watchdog { 15 } else { 0 },
            restart: self.restart,
            on_persistent_failure: if self.reboots { PersistentFailure::Reboot } else { PersistentFailure::Retry },
            readiness,
            conditions,
            stop_before: below(&self.needs).into_iter().collect(),
            revision: self.revision.to_string(),
            ..daemon(NAMES[self.service])
        }
    }
}

#[derive(Debug, Default)]
struct Process {
    run: u64,
    main: bool,
    descendants: bool,
    hangs: bool,
}

struct World {
    machine: Machine,
    processes: BTreeMap<ServiceName, Process>,
    watched: BTreeSet<Condition>,
    holds: BTreeMap<usize, bool>,
    version: u64,
    completions: u32,
    inhibitors: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            machine: Machine::new([daemon("s")]),
            processes: BTreeMap::new(),
            watched: BTreeSet::new(),
            holds: BTreeMap::new(),
            version: 0,
            completions: 0,
            inhibitors: 0,
        };
        world.event(Event::Tick);
        world
    }

    /// The services' names, the static one last.
    fn name(index: usize) -> ServiceName {
        name(NAMES.get(index).copied().unwrap_or("s"))
    }

    fn event(&mut self, event: Event) {
        let mut pending = vec![event];
        while let Some(event) = pending.pop() {
            for command in self.machine.handle(event) {
                self.obey(command, &mut pending);
            }
        }
    }

    fn obey(&mut self, command: Command, pending: &mut Vec<Event>) {
        match command {
            Command::Spawn { service, run } => {
                assert!(!self.processes.contains_key(&service), "two processes of {service}");
                assert!(self.machine.core.shutting_down().is_none() || self.completions == 0, "spawned after the end");
                let process = Process { run: run.0, main: true, ..Process::default() };
                self.processes.insert(service, process);
            }
            Command::Terminate { service } => {
                assert!(self.processes.contains_key(&service), "{service} has no process to signal");
            }
            Command::KillAll { service, run } => {
                let process = self.processes.get_mut(&service).expect("a process to kill");
                assert_eq!(process.run, run.0);
                if !process.hangs {
                    self.die(&service, pending);
                }
            }
            Command::Watch { condition } => {
                self.watched.insert(condition.clone());
                let holds = self.holds(&condition);
                pending.push(Event::Condition { condition, holds });
            }
            Command::Unwatch { condition } => assert!(self.watched.remove(&condition), "{condition} is not watched"),
            Command::Forget { service } => assert!(!self.processes.contains_key(&service), "{service} is alive"),
            Command::ShutdownComplete { left, .. } => {
                self.completions += 1;
                assert!(left.iter().all(|service| self.processes.contains_key(service)));
            }
            Command::Changed { .. } | Command::ShutdownBegun { .. } => {}
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let index = usize::from(matches!(condition, Condition::SocketAnswers(_)));
        self.holds.get(&index).copied().unwrap_or_default()
    }

    /// Everything of a service ends by SIGKILL. The end of its main process is seen first; the core then kills what is
    /// left, and that this is nothing is seen after that.
    fn die(&mut self, service: &ServiceName, pending: &mut Vec<Event>) {
        let Some(process) = self.processes.get_mut(service) else { return };
        let run = Run(process.run);
        if process.main {
            process.main = false;
            pending.push(Event::Exited { service: service.clone(), run, reason: ExitReason::Signaled(9) });
        } else {
            self.processes.remove(service);
            pending.push(Event::Emptied { service: service.clone(), run });
        }
    }

    /// The main process ends by itself. What is left ends when the core kills it.
    fn exit(&mut self, service: &ServiceName, status: i32) {
        let Some(process) = self.processes.get_mut(service).filter(|process| process.main) else { return };
        process.main = false;
        let run = Run(process.run);
        self.event(Event::Exited { service: service.clone(), run, reason: ExitReason::Exited(status) });
    }

    fn run(&self, service: &ServiceName) -> Option<Run> {
        self.processes.get(service).filter(|process| process.main).map(|process| Run(process.run))
    }

    fn apply(&mut self, shapes: &[Shape]) {
        self.version += 1;
        let mut seen = BTreeSet::new();
        let flip = self.version.is_multiple_of(2);
        let unique = shapes.iter().filter(|shape| seen.insert(shape.service));
        let mut services: Vec<ServiceSpec> = unique.map(|shape| shape.spec(flip)).collect();
        let names: Vec<ServiceName> = services.iter().map(|spec| spec.name.clone()).collect();
        for spec in &mut services {
            spec.conditions.retain(|condition| !matches!(condition, Condition::ServiceReady(n) if !names.contains(n)));
        }
        let set = ServiceSet { version: self.version, services };
        set.validate(&self.machine.core.static_specs()).expect("a valid set");
        self.event(Event::Apply { set });
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Pass(milliseconds) => {
                self.machine.now += Duration::from_millis(milliseconds);
                self.event(Event::Tick);
            }
            Op::Start(index) => self.event(Event::Start { service: Self::name(index) }),
            Op::Stop(index) => self.event(Event::Stop { service: Self::name(index) }),
            Op::Restart(index) => self.event(Event::Restart { service: Self::name(index), reason: "r".to_owned() }),
            Op::Unhealthy(index) => self.event(Event::Unhealthy { service: Self::name(index), reason: "u".to_owned() }),
            Op::Apply(shapes) => self.apply(&shapes),
            Op::Execute(index) => {
                let service = Self::name(index);
                if let Some(run) = self.run(&service) {
                    self.event(Event::Executed { service, run });
                }
            }
            Op::Notify(index) => {
                let service = Self::name(index);
                if let Some(run) = self.run(&service) {
                    self.event(Event::Notified { service, run });
                }
            }
            Op::Live(index) => self.live(&Self::name(index)),
            Op::Crash(index, status) => self.exit(&Self::name(index), status),
            Op::CrashLoop(index, times) => self.crash_loop(index, times),
            Op::HangLoop(index, times) => self.hang_loop(index, times),
            Op::FailSpawn(index) => self.fail_spawn(index),
            Op::Breed(index) => self.with(index, |process| process.descendants = true),
            Op::Hang(index) => self.with(index, |process| process.hangs = true),
            Op::Toggle(index) => self.toggle(index),
            Op::Inhibit => {
                self.inhibitors += 1;
                let id = InhibitorId(self.inhibitors);
                self.event(Event::Inhibit { id, who: "x".to_owned(), delay_max: Duration::from_secs(30) });
            }
            Op::Uninhibit => self.event(Event::Uninhibit { id: InhibitorId(self.inhibitors) }),
            Op::Shutdown => self.event(Event::Shutdown { kind: ShutdownKind::Reboot, reason: "x".to_owned() }),
            Op::Force => self.event(Event::ForceShutdown),
            Op::Stale(index) => {
                let service = Self::name(index);
                self.event(Event::Executed { service: service.clone(), run: Run(0) });
                self.event(Event::Exited { service: service.clone(), run: Run(0), reason: ExitReason::Exited(0) });
                self.event(Event::Emptied { service, run: Run(0) });
            }
        }
    }

    fn live(&mut self, service: &ServiceName) {
        if let Some(run) = self.run(service) {
            self.event(Event::Alive { service: service.clone(), run });
        }
    }

    fn crash_loop(&mut self, index: usize, times: u8) {
        for _ in 0..times {
            self.exit(&Self::name(index), 1);
            if let Some(deadline) = self.machine.core.next_deadline() {
                self.machine.now = self.machine.now.max(deadline);
                self.event(Event::Tick);
            }
        }
    }

    fn hang_loop(&mut self, index: usize, times: u8) {
        for _ in 0..times {
            let service = Self::name(index);
            if let Some(run) = self.run(&service) {
                self.event(Event::Executed { service: service.clone(), run });
                self.event(Event::Notified { service, run });
            }
            // Its patience in its two halves, or some of the delay before it is started again.
            for _ in 0..2 {
                self.machine.now += Duration::from_secs(8);
                self.event(Event::Tick);
            }
        }
    }

    fn with(&mut self, index: usize, change: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.get_mut(&Self::name(index)) {
            change(process);
        }
    }

    /// Only what was spawned and has not executed yet can fail to spawn.
    fn fail_spawn(&mut self, index: usize) {
        let service = Self::name(index);
        let starting = self
            .machine
            .core
            .status(self.machine.now)
            .into_iter()
            .any(|status| status.name == service && status.state == ServiceState::Starting);
        if starting && let Some(run) = self.run(&service) {
            self.processes.remove(&service);
            self.event(Event::SpawnFailed { service, run, reason: "no".to_owned() });
        }
    }

    fn toggle(&mut self, index: usize) {
        let holds = self.holds.entry(index).or_default();
        *holds = !*holds;
        for condition in self.watched.clone() {
            let holds = self.holds(&condition);
            self.event(Event::Condition { condition, holds });
        }
    }

    /// From now on processes behave, conditions hold, and time passes until nothing more happens.
    fn become_benign(&mut self) {
        for index in 0..2 {
            if !self.holds.get(&index).copied().unwrap_or_default() {
                self.toggle(index);
            }
        }
        self.event(Event::Uninhibit { id: InhibitorId(self.inhibitors) });
        for _ in 0..2000 {
            self.behave();
            let Some(deadline) = self.machine.core.next_deadline() else { return };
            self.machine.now = self.machine.now.max(deadline);
            self.event(Event::Tick);
        }
        let waits = self.machine.core.status(self.machine.now).into_iter().all(|status| {
            // A reminder of a wait comes for ever, if what is waited for was stopped by request.
            matches!(status.state, ServiceState::Waiting)
                || !matches!(status.state, ServiceState::Starting | ServiceState::Stopping | ServiceState::Backoff)
        });
        assert!(waits, "it never comes to rest: {:?}", self.machine.core);
    }

    /// Starting processes execute and notify, ready ones say that they live, one-shots end, what is being stopped ends.
    fn behave(&mut self) {
        for status in self.machine.core.status(self.machine.now) {
            let service = status.name;
            let Some(process) = self.processes.get_mut(&service) else { continue };
            process.hangs = false;
            let run = Run(process.run);
            match status.state {
                ServiceState::Starting => {
                    let once = self.machine.core.spec(&service).is_some_and(|spec| spec.kind == ServiceKind::OneShot);
                    self.event(Event::Executed { service: service.clone(), run });
                    self.event(Event::Notified { service: service.clone(), run });
                    if once {
                        self.exit(&service, 0);
                    }
                }
                ServiceState::Stopping => {
                    let mut pending = Vec::new();
                    self.die(&service, &mut pending);
                    while let Some(event) = pending.pop() {
                        self.event(event);
                    }
                }
                ServiceState::Ready => self.live(&service),
                _ => {}
            }
        }
    }

    /// Wanted and up, or not wanted and gone.
    fn check_end(&self) {
        let shutting_down = self.machine.core.shutting_down().is_some();
        assert_eq!(self.completions, u32::from(shutting_down), "a shutdown ends once");
        for status in self.machine.core.status(self.machine.now) {
            let has_process = self.processes.contains_key(&status.name);
            let fits = match status.state {
                ServiceState::Ready => has_process && status.desired == Desired::Up && !shutting_down,
                ServiceState::Stopped => !has_process && (status.desired == Desired::Down || shutting_down),
                ServiceState::Done => !has_process && status.desired == Desired::Up && !shutting_down,
                ServiceState::Failed => {
                    let never = self.machine.core.spec(&status.name).unwrap().restart == RestartPolicy::Never;
                    !has_process && status.desired == Desired::Up && never && !shutting_down
                }
                // Only for a service that somebody stopped, or that never comes back.
                ServiceState::Waiting => status.waiting_for.as_ref().is_some_and(|what| what.contains("service ")),
                // Its processes outlived the end of the machine.
                ServiceState::Stopping => shutting_down,
                ServiceState::Starting | ServiceState::Backoff => false,
            };
            assert!(fits, "{status:?}, process: {has_process}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_services_end_up_as_wanted_and_never_twice(ops in vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
        world.become_benign();
        world.check_end();
    }
}
