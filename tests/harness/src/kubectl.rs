//! kubectl as the tests and `cargo vm` use it: the real program, run to its end with a deadline.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::wait;

/// A request that takes longer than this under emulation has hung.
const COMMAND_DEADLINE: Duration = Duration::from_mins(2);

#[derive(Debug, thiserror::Error)]
pub enum KubectlError {
    #[error("cannot run {program}", program = program.display())]
    Run { program: PathBuf, source: std::io::Error },
    #[error("kubectl {arguments} failed: {message}")]
    Failed { arguments: String, message: String },
    #[error("kubectl {arguments} did not end")]
    Hung { arguments: String, source: wait::Timeout },
    #[error("kubectl {arguments} printed no JSON")]
    Json { arguments: String, source: serde_json::Error },
}

#[derive(Debug, Clone)]
pub struct Kubectl {
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }

    /// Runs kubectl and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> Result<String, KubectlError> {
        self.run_with_input(arguments, "")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String, KubectlError> {
        let failed = |source| KubectlError::Run { program: self.program.clone(), source };
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // kubectl may end before it has read everything; its exit status then says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = finish(child, &arguments.join(" "))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(KubectlError::Failed { arguments: arguments.join(" "), message })
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value, KubectlError> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|source| KubectlError::Json { arguments: arguments.join(" "), source })
    }

    pub fn apply(&self, manifest: &str) -> Result<String, KubectlError> {
        self.run_with_input(&["apply", "--server-side", "-f", "-"], manifest)
    }
}

/// Both pipes are read while the program runs, or it would block on a full one.
fn finish(mut child: Child, arguments: &str) -> Result<Output, KubectlError> {
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let ended = wait::until(&format!("kubectl {arguments}"), COMMAND_DEADLINE, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("still running".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    let status = match ended {
        Ok(status) => status,
        Err(source) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(KubectlError::Hung { arguments: arguments.to_owned(), source });
        }
    };
    let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        reader.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    Ok(Output { status, stdout: text(stdout), stderr: text(stderr) })
}

fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still what the program said.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A pod condition or a node condition of `kind` whose status is `True`.
pub fn condition_holds(object: &Value, kind: &str) -> bool {
    let says = |condition: &Value, field: &str, value: &str| condition.get(field).is_some_and(|found| found == value);
    array_at(object, "/status/conditions")
        .iter()
        .any(|condition| says(condition, "type", kind) && says(condition, "status", "True"))
}

/// The array at a JSON pointer (RFC 6901); empty where there is none.
pub fn array_at<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The text at a JSON pointer; empty where there is none.
pub fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
