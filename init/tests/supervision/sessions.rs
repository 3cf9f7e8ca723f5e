//! Containment without cgroups: all processes whose session was begun by the service's main process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use keelson_control::{ServiceName, ServiceSpec};
use keelson_init::supervisor::{Containment, Usage};
use keelson_sys::poller::Poller;
use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    leaders: BTreeMap<ServiceName, i32>,
}

/// Every living process with its session.
fn processes() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| session_of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn session_of(pid: i32) -> Option<(i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses can hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let alive = *fields.first()? != "Z";
    alive.then_some((pid, fields.get(3)?.parse().ok()?))
}

impl Sessions {
    fn members(&self, service: &ServiceName) -> Vec<i32> {
        let Some(leader) = self.leaders.get(service) else { return Vec::new() };
        processes().into_iter().filter(|(_, session)| session == leader).map(|(pid, _)| pid).collect()
    }
}

impl Containment for Sessions {
    fn prepare(&mut self, _: &ServiceSpec, _: &Poller) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn directory(&self, _: &ServiceName) -> Option<BorrowedFd<'_>> {
        None
    }

    fn started(&mut self, service: &ServiceName, pid: i32) {
        self.leaders.insert(service.clone(), pid);
    }

    fn kill(&mut self, service: &ServiceName) -> io::Result<()> {
        for pid in self.members(service) {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        Ok(())
    }

    fn is_empty(&self, service: &ServiceName) -> io::Result<bool> {
        Ok(self.members(service).is_empty())
    }

    fn processes(&self, _: &ServiceName) -> Vec<String> {
        Vec::new()
    }

    fn owner(&self, pid: i32) -> Option<ServiceName> {
        let (_, session) = session_of(pid)?;
        self.leaders.iter().find(|(_, leader)| **leader == session).map(|(service, _)| service.clone())
    }

    fn usage(&self, _: &ServiceName) -> Usage {
        Usage::default()
    }

    fn forget(&mut self, service: &ServiceName) {
        self.leaders.remove(service);
    }
}
