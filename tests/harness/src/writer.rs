//! A client that writes objects one after the other and remembers which were acknowledged.
//!
//! It goes through `kubectl proxy`, so that the requests themselves are plain HTTP.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::kubectl::Kubectl;
use crate::proxy::{Proxy, ProxyError};

/// A write without an answer for so long has failed, as far as its client can tell.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Writer {
    proxy: Proxy,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Every object that was written carries it.
    pub const LABEL: &str = "written-by=writer";

    pub fn start(kubectl: &Kubectl) -> Result<Self, ProxyError> {
        let proxy = Proxy::start(kubectl)?;
        let address = proxy.address();
        let mut writer = Self { proxy, stop: Arc::default(), acknowledged: Arc::default(), thread: None };
        let (stop, acknowledged) = (Arc::clone(&writer.stop), Arc::clone(&writer.acknowledged));
        writer.thread = Some(std::thread::spawn(move || write_until_stopped(address, &stop, &acknowledged)));
        Ok(writer)
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends the writing and returns the names of all acknowledged objects.
    pub fn stop(mut self) -> Vec<String> {
        self.end();
        std::mem::take(&mut *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
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

fn write_until_stopped(address: SocketAddr, stop: &AtomicBool, acknowledged: &Mutex<Vec<String>>) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_DEADLINE)).build().into();
    let url = format!("http://{address}/api/v1/namespaces/default/configmaps");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("written-{number}");
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"written-by": "writer"}},
            "data": {"number": number.to_string()},
        });
        let answer = agent.post(&url).header("content-type", "application/json").send(object.to_string());
        // ureq answers Ok for 2xx only; anything else promised nothing.
        if answer.is_ok() {
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        }
    }
}
