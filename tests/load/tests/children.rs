//! What is started ends with whoever started it.
#![forbid(unsafe_code)]
#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

/// A line of proc(5)'s `stat`, while the process runs.
fn stat(process: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Ended and not yet waited for.
    (!stat.contains(") Z ")).then_some(stat)
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let (_quiet, tick) = std::sync::mpsc::channel::<()>();
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        _ = tick.recv_timeout(Duration::from_millis(10));
        std::thread::yield_now();
    }
}

#[test]
fn a_server_is_killed_with_the_benchmark() {
    let script = "\"$LOAD\" become $$ sleep 600 & echo $!; wait";
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .env("LOAD", env!("CARGO_BIN_EXE_keelson-load"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut child).unwrap();
    let child = child.trim();
    until("it became the other program", || stat(child).is_some_and(|stat| stat.contains("(sleep)")));
    shell.kill().unwrap();
    shell.wait().unwrap();
    until("it ended with its parent", || stat(child).is_none());
}

#[test]
fn what_cannot_be_started_is_told() {
    let id = std::process::id().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-load")).args(["become", &id, "/nowhere/x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("start /nowhere/x"), "{output:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_keelson-load")).args(["become", "1", "true"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("its parent has ended"), "{output:?}");
}
