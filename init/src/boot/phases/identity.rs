//! The machine's names: machine-id, which STATE keeps, and host name.

use std::fs;
use std::io;

use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::console::Console;

/// Where the root's /etc/machine-id points.
const MACHINE_ID: &str = "/run/machine-id";
/// sethostname(2) takes no more.
const HOSTNAME_BYTES: usize = 64;
/// How much of the machine-id a derived name carries: enough for a fleet, short enough to be read out.
const DERIVED_DIGITS: usize = 8;

#[derive(Debug, Error)]
enum IdentityError {
    #[error("cannot write {MACHINE_ID}")]
    MachineId(#[source] io::Error),
    #[error("cannot set the host name to {name}")]
    Hostname { name: String, source: io::Error },
}

pub(super) fn run(machine: &mut Machine, _: &mut Console) -> PhaseResult {
    let machine_id = &machine.state()?.machine_id;
    let hostname = hostname(machine.node()?.name.as_deref(), machine_id);
    fs::write(MACHINE_ID, format!("{machine_id}\n")).map_err(IdentityError::MachineId)?;
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|error| IdentityError::Hostname { name: hostname.clone(), source: error.into() })?;
    let sentence = format!("this is {hostname}");
    machine.hostname = Some(hostname);
    Ok(sentence)
}

/// The name that was said or remembered, else one made from the machine-id, which stays the same as long as STATE does.
fn hostname(named: Option<&str>, machine_id: &str) -> String {
    let mut name = named.map_or_else(
        || {
            let digits: String = machine_id.chars().take(DERIVED_DIGITS).collect();
            format!("keelson-{digits}")
        },
        str::to_owned,
    );
    name.truncate(name.floor_char_boundary(HOSTNAME_BYTES));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn name_is_derived_from_the_machine_id_if_nobody_gave_one() {
        assert_eq!(hostname(None, MACHINE), "keelson-01234567");
        assert_eq!(hostname(Some("w3"), MACHINE), "w3");
    }

    #[test]
    fn name_fits_the_kernel() {
        assert_eq!(hostname(Some(&"n".repeat(253)), MACHINE).len(), 64);
    }
}
