//! `kubectl proxy`: Kubernetes' API as plain HTTP on a port of 127.0.0.1, for clients that ask often.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use crate::kubectl::Kubectl;

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("cannot start kubectl proxy")]
    Start(#[source] std::io::Error),
    #[error("kubectl proxy said {0:?} instead of where it serves")]
    NoAddress(String),
}

/// A running proxy, ended on drop.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    /// Kept open: what kubectl says later must not end it.
    _output: Option<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Proxy {
    pub fn start(kubectl: &Kubectl) -> Result<Self, ProxyError> {
        let mut child = kubectl
            .command(&["proxy", "--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ProxyError::Start)?;
        // It prints "Starting to serve on 127.0.0.1:PORT".
        let mut line = String::new();
        let mut output = child.stdout.take().map(BufReader::new);
        if let Some(output) = &mut output {
            output.read_line(&mut line).map_err(ProxyError::Start)?;
        }
        if let Some(address) = line.split_whitespace().find_map(|word| word.parse().ok()) {
            return Ok(Self { child, _output: output, address });
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(ProxyError::NoAddress(line))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}
