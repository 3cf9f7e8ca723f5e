//! A client that writes objects one after the other and remembers which were acknowledged.
//!
//! It goes through `kubectl proxy`, so that the requests themselves are plain HTTP.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kubectl::{Kubectl, KubectlError, array_at, text_at};
use crate::proxy::{Proxy, ProxyError};
use crate::wait;

/// A write without an answer for so long has failed, as far as its client can tell. An API server gives up after as long.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Writer {
    proxy: Proxy,
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Written>>,
    thread: Option<JoinHandle<()>>,
}

/// What became of the writes.
#[derive(Debug, Default)]
pub struct Written {
    /// The names of all acknowledged objects.
    pub acknowledged: Vec<String>,
    /// What was said instead of an acknowledgement.
    pub failures: Vec<String>,
    /// Between two acknowledgements, or the start and the first.
    pub longest_gap: Duration,
}

impl Written {
    /// The acknowledged objects that are not there.
    pub fn lost(&self, kubectl: &Kubectl) -> Result<Vec<&String>, KubectlError> {
        let found = kubectl.json(&["get", "configmaps", "-l", LABEL])?;
        let names: HashSet<_> =
            array_at(&found, "/items").iter().map(|object| text_at(object, "/metadata/name")).collect();
        Ok(self.acknowledged.iter().filter(|name| !names.contains(name.as_str())).collect())
    }
}

/// Every object that was written carries it.
const LABEL: &str = "written-by=writer";

impl Writer {
    /// The objects' names begin with `prefix`; `pause` is between an answer and the next request. Without one a single client
    /// keeps an emulated machine busy.
    pub fn start(kubectl: &Kubectl, prefix: &'static str, pause: Duration) -> Result<Self, ProxyError> {
        let proxy = Proxy::start(kubectl)?;
        let address = proxy.address();
        let mut writer = Self { proxy, stop: Arc::default(), written: Arc::default(), thread: None };
        let (stop, written) = (Arc::clone(&writer.stop), Arc::clone(&writer.written));
        writer.thread =
            Some(std::thread::spawn(move || write_until_stopped(address, (prefix, pause), &stop, &written)));
        Ok(writer)
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).acknowledged.len()
    }

    /// Ends the writing and tells what became of it. The write that is under way is not waited for.
    pub fn stop(mut self) -> Written {
        let written = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        self.end();
        written
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.proxy.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_until_stopped(
    address: SocketAddr,
    (prefix, pause): (&str, Duration),
    stop: &AtomicBool,
    written: &Mutex<Written>,
) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_DEADLINE)).build().into();
    let url = format!("http://{address}/api/v1/namespaces/default/configmaps");
    let mut number = 0;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("{prefix}-{number}");
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"written-by": "writer"}},
            "data": {"number": number.to_string()},
        });
        let answer = agent.post(&url).header("content-type", "application/json").send(object.to_string());
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        // ureq answers Ok for 2xx only; anything else promised nothing.
        match answer {
            Ok(_) => {
                written.acknowledged.push(name);
                written.longest_gap = written.longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => written.failures.push(format!("{name}: {error}")),
        }
        drop(written);
        wait::pause(pause);
    }
}
