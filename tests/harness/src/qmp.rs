//! A client of the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec.rst): one JSON object a line over a unix socket.
//!
//! Each command opens the socket anew: the commands are rare, and a QEMU that was restarted needs no special care.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// QEMU answers at once unless its main loop is stuck.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("cannot reach QEMU at {path}")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("QEMU did not answer {command}")]
    Exchange { command: String, source: std::io::Error },
    #[error("QEMU answered {command} with {answer}")]
    Refused { command: String, answer: Value },
}

/// Runs one command of the machine whose QMP socket is `path`, and returns what QEMU returned.
pub fn execute(path: &Path, command: &str, arguments: &Value) -> Result<Value, QmpError> {
    let mut session = Session::open(path)?;
    session.run("qmp_capabilities", &json!({}))?;
    session.run(command, arguments)
}

struct Session {
    reader: BufReader<UnixStream>,
}

impl Session {
    fn open(path: &Path) -> Result<Self, QmpError> {
        let connect = |source| QmpError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(connect)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(connect)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(connect)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// The greeting and events are not answers and are skipped.
    fn run(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let failed = |source| QmpError::Exchange { command: command.to_owned(), source };
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes()).map_err(failed)?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).map_err(failed)? == 0 {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let answer: Value = serde_json::from_str(&line).map_err(|error| failed(error.into()))?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if answer.get("error").is_some() {
                return Err(QmpError::Refused { command: command.to_owned(), answer });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn answering(path: &Path, lines: &'static [&'static str]) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            writer.write_all(b"{\"QMP\": {\"version\": {}}}\n").unwrap();
            let mut requests = BufReader::new(stream).lines();
            for line in lines {
                requests.next().unwrap().unwrap();
                writer.write_all(line.as_bytes()).unwrap();
            }
        })
    }

    #[test]
    fn skips_greeting_and_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let server = answering(
            &path,
            &["{\"return\": {}}\n", "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}}\n"],
        );
        let status = execute(&path, "query-status", &json!({})).unwrap();
        assert_eq!(status["status"], "paused");
        server.join().unwrap();
    }

    #[test]
    fn reports_a_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let server = answering(&path, &["{\"return\": {}}\n", "{\"error\": {\"desc\": \"no such command\"}}\n"]);
        let error = execute(&path, "quack", &json!({})).unwrap_err();
        assert!(error.to_string().contains("no such command"), "{error}");
        server.join().unwrap();
    }
}
