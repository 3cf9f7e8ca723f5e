use std::sync::{Arc, Mutex};

use super::clock::ClockError;
use super::packet::{SECOND, to_ntp};
use super::*;

/// A clock that runs off by some amount and is moved instead of the kernel's.
#[derive(Clone)]
struct TestClock {
    offset: Arc<Mutex<Nanoseconds>>,
    moves: Arc<Mutex<Vec<&'static str>>>,
}

impl TestClock {
    fn off_by(seconds: i64) -> Self {
        Self { offset: Arc::new(Mutex::new(seconds * SECOND)), moves: Arc::default() }
    }

    fn off(&self) -> f64 {
        packet::seconds(*self.offset.lock().unwrap())
    }

    fn moves(&self) -> Vec<&'static str> {
        self.moves.lock().unwrap().clone()
    }
}

fn real() -> Nanoseconds {
    clock::SystemClock.now()
}

impl Clock for TestClock {
    fn now(&self) -> Nanoseconds {
        real() + *self.offset.lock().unwrap()
    }

    fn step(&mut self, to: Nanoseconds) -> Result<(), ClockError> {
        *self.offset.lock().unwrap() = to - real();
        self.moves.lock().unwrap().push("step");
        Ok(())
    }

    fn slew(&mut self, _: Nanoseconds, _: Duration, _: Nanoseconds) -> Result<(), ClockError> {
        self.moves.lock().unwrap().push("slew");
        Ok(())
    }
}

/// Answers each question with the real time, changed by `change`.
async fn serve(change: impl Fn(&mut [u8; 48]) + Send + 'static) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let mut question = [0; 48];
            let (_, from) = socket.recv_from(&mut question).await.unwrap();
            let mut answer = [0; 48];
            (answer[0], answer[1]) = (4 << 3 | 4, 2);
            answer[24..32].copy_from_slice(&question[40..48]);
            answer[32..40].copy_from_slice(&to_ntp(real()).to_be_bytes());
            answer[40..48].copy_from_slice(&to_ntp(real()).to_be_bytes());
            change(&mut answer);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    port
}

struct Running {
    servers: watch::Sender<Servers>,
    state: watch::Receiver<TimeState>,
    directory: tempfile::TempDir,
}

impl Running {
    fn start(clock: &TestClock, port: u16, names: &[&str]) -> Self {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let (servers, servers_seen) = watch::channel(Servers { names, generation: 0 });
        let (state_told, state) = watch::channel(TimeState::default());
        let directory = tempfile::tempdir().unwrap();
        let floor = directory.path().join("clock-floor");
        tokio::spawn(run(servers_seen, state_told, clock.clone(), floor, Some(port)));
        Self { servers, state, directory }
    }

    fn floor(&self, seconds: i64) {
        std::fs::write(self.directory.path().join("clock-floor"), seconds.to_string()).unwrap();
    }

    fn network_came_back(&self) {
        self.servers.send_modify(|servers| servers.generation += 1);
    }

    /// The next state that is told.
    async fn next(&mut self) -> TimeState {
        timeout(Duration::from_secs(20), self.state.changed()).await.expect("an answer in time").unwrap();
        self.state.borrow_and_update().clone()
    }
}

#[tokio::test]
async fn sets_a_clock_that_is_far_off_and_says_so() {
    let port = serve(|_| {}).await;
    let clock = TestClock::off_by(-86_400);
    let mut running = Running::start(&clock, port, &["127.0.0.1"]);
    let state = running.next().await;
    assert!(state.synchronised && state.server.as_deref() == Some("127.0.0.1"), "{state:?}");
    assert!((state.offset_seconds.unwrap() - 86_400.0).abs() < 1.0, "{state:?}");
    assert!(clock.off().abs() < 0.5, "{}", clock.off());
    assert_eq!(clock.moves(), ["step"]);
}

#[tokio::test]
async fn slews_a_clock_that_is_nearly_right() {
    let port = serve(|_| {}).await;
    let clock = TestClock::off_by(0);
    let mut running = Running::start(&clock, port, &["127.0.0.1"]);
    assert!(running.next().await.synchronised);
    assert_eq!(clock.moves(), ["slew"]);
}

#[tokio::test]
async fn a_machine_that_was_stopped_is_set_when_the_network_returns() {
    let port = serve(|_| {}).await;
    let clock = TestClock::off_by(0);
    let mut running = Running::start(&clock, port, &["127.0.0.1"]);
    running.next().await;
    *clock.offset.lock().unwrap() = -7200 * SECOND;
    running.network_came_back();
    running.next().await;
    assert!(clock.off().abs() < 0.5, "{}", clock.off());
    assert_eq!(clock.moves(), ["slew", "step"]);
}

#[tokio::test]
async fn never_goes_below_the_floor() {
    let port = serve(|answer| {
        let past = to_ntp(1_000_000_000 * SECOND).to_be_bytes();
        answer[32..40].copy_from_slice(&past);
        answer[40..48].copy_from_slice(&past);
    })
    .await;
    let clock = TestClock::off_by(0);
    let mut running = Running::start(&clock, port, &["127.0.0.1"]);
    running.floor(1_700_000_000);
    let told = timeout(Duration::from_secs(3), running.state.changed()).await;
    assert!(told.is_err(), "{:?}", running.state.borrow());
    assert_eq!(clock.moves(), Vec::<&str>::new());
}

/// A node whose hardware clock was wrong once begins each later boot where STATE remembers to have been. That is no floor: the
/// image's build time is.
#[tokio::test]
async fn a_clock_that_began_years_ahead_is_set_back_by_the_first_answer() {
    let port = serve(|_| {}).await;
    let clock = TestClock::off_by(9 * 365 * 86_400);
    let mut running = Running::start(&clock, port, &["127.0.0.1"]);
    running.floor(1_700_000_000);
    assert!(running.next().await.synchronised);
    assert!(clock.off().abs() < 0.5, "{}", clock.off());
    assert_eq!(clock.moves(), ["step"]);
}

#[tokio::test]
async fn goes_on_to_a_server_that_answers() {
    let port = serve(|_| {}).await;
    let clock = TestClock::off_by(0);
    // Nobody listens on the second loopback address.
    let mut running = Running::start(&clock, port, &["127.0.0.2", "127.0.0.1"]);
    assert_eq!(running.next().await.server.as_deref(), Some("127.0.0.1"));
}

#[tokio::test]
async fn refuses_servers_that_have_no_time_or_guess_the_answer() {
    for change in [
        (|answer: &mut [u8; 48]| answer[0] |= 3 << 6) as fn(&mut [u8; 48]),
        |answer| answer[1] = 0,
        |answer| answer[31] ^= 1,
    ] {
        let clock = TestClock::off_by(-1000);
        let mut running = Running::start(&clock, serve(change).await, &["127.0.0.1"]);
        let told = timeout(Duration::from_secs(1), running.state.changed()).await;
        assert!(told.is_err() && clock.moves().is_empty());
    }
}

#[tokio::test]
async fn without_servers_nothing_is_asked_until_there_are_some() {
    let port = serve(|_| {}).await;
    let clock = TestClock::off_by(0);
    let mut running = Running::start(&clock, port, &[]);
    assert!(timeout(Duration::from_millis(300), running.state.changed()).await.is_err());
    running.servers.send_modify(|servers| servers.names = vec!["127.0.0.1".into()]);
    assert!(running.next().await.synchronised);
}
