//! Who this machine is: machine-id and host name, and the check that it is still the one that STATE remembers.
//!
//! STATE comes first for role and name. A source that says otherwise is not overruled in silence: the disk may have been moved,
//! or the wrong machine was given this configuration, and only a person knows which.

use std::fs;
use std::io;

use keelson_config::{NodeConfig, Role};
use keelson_job::RememberedIdentity;
use thiserror::Error;

use super::{Machine, PhaseResult};
use crate::console::Console;

/// Where the root's /etc/machine-id points.
const MACHINE_ID: &str = "/run/machine-id";
/// sethostname(2) takes no more.
const HOSTNAME_BYTES: usize = 64;
/// How much of the machine-id a derived name carries: enough for a fleet, short enough to be read out.
const DERIVED_DIGITS: usize = 8;

#[derive(Debug, PartialEq, Eq, Error)]
enum Disagreement {
    #[error(
        "STATE remembers this node as a {remembered}, but {said_by} says keelson.role={said}; correct the one that is wrong, or reset the node"
    )]
    Role { remembered: Role, said: Role, said_by: String },
    #[error(
        "STATE remembers this node's name as {remembered}, but {said_by} says {said}; correct the one that is wrong, or reset the node"
    )]
    Name { remembered: String, said: String, said_by: String },
}

#[derive(Debug, Error)]
enum IdentityError {
    #[error("cannot write {MACHINE_ID}")]
    MachineId(#[source] io::Error),
    #[error("cannot set the host name to {name}")]
    Hostname { name: String, source: io::Error },
}

pub(super) fn run(machine: &mut Machine, _: &mut Console) -> PhaseResult {
    let state = machine.state()?;
    let remembered = state.identity.clone().unwrap_or_default();
    let said = Said::by(machine.node()?);
    agree(&said, &remembered)?;
    let hostname = hostname(said.name, &remembered, &state.machine_id);
    fs::write(MACHINE_ID, format!("{}\n", state.machine_id)).map_err(IdentityError::MachineId)?;
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|error| IdentityError::Hostname { name: hostname.clone(), source: error.into() })?;
    let sentence = format!("this is {hostname}");
    machine.hostname = Some(hostname);
    Ok(sentence)
}

/// What the sources say that STATE may contradict, and who said it.
struct Said<'a> {
    role: Role,
    role_by: String,
    name: Option<&'a str>,
    name_by: String,
}

impl<'a> Said<'a> {
    fn by(node: &'a NodeConfig) -> Self {
        let by = |field: &str| {
            node.sources.get(field).map_or_else(|| "the configuration".to_owned(), |source| format!("the {source}"))
        };
        Self { role: node.role, role_by: by("role"), name: node.name.as_deref(), name_by: by("name") }
    }
}

fn agree(said: &Said<'_>, remembered: &RememberedIdentity) -> Result<(), Disagreement> {
    if let Some(role) = remembered.role.filter(|role| *role != said.role) {
        return Err(Disagreement::Role { remembered: role, said: said.role, said_by: said.role_by.clone() });
    }
    match (&remembered.name, said.name) {
        (Some(remembered), Some(name)) if remembered != name => Err(Disagreement::Name {
            remembered: remembered.clone(),
            said: name.to_owned(),
            said_by: said.name_by.clone(),
        }),
        _ => Ok(()),
    }
}

/// The name that was said, else the one that STATE remembers, else one made from the machine-id, which stays the same as long
/// as STATE does.
fn hostname(said: Option<&str>, remembered: &RememberedIdentity, machine_id: &str) -> String {
    let named = said.map(str::to_owned).or_else(|| remembered.name.clone());
    let mut name = named.unwrap_or_else(|| {
        let digits: String = machine_id.chars().take(DERIVED_DIGITS).collect();
        format!("keelson-{digits}")
    });
    name.truncate(name.floor_char_boundary(HOSTNAME_BYTES));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";

    fn said(role: Role, name: Option<&str>) -> Said<'_> {
        Said {
            role,
            role_by: "the kernel command line".to_owned(),
            name,
            name_by: "the kernel command line".to_owned(),
        }
    }

    #[test]
    fn name_is_derived_from_the_machine_id_if_nobody_gave_one() {
        assert_eq!(hostname(None, &RememberedIdentity::default(), MACHINE), "keelson-01234567");
    }

    #[test]
    fn remembered_name_goes_before_a_derived_one() {
        let remembered = RememberedIdentity { name: Some("w3".to_owned()), ..Default::default() };
        assert_eq!(hostname(None, &remembered, MACHINE), "w3");
    }

    #[test]
    fn other_role_or_name_than_state_remembers_is_refused_with_both() {
        let remembered =
            RememberedIdentity { role: Some(Role::ControlPlane), name: Some("a".to_owned()), cluster_id: None };
        let role = agree(&said(Role::Worker, Some("a")), &remembered).unwrap_err().to_string();
        assert!(role.contains("control-plane") && role.contains("worker"), "{role}");
        let name = agree(&said(Role::ControlPlane, Some("b")), &remembered).unwrap_err();
        assert_eq!(
            name,
            Disagreement::Name {
                remembered: "a".to_owned(),
                said: "b".to_owned(),
                said_by: "the kernel command line".to_owned()
            }
        );
        assert_eq!(agree(&said(Role::ControlPlane, None), &remembered), Ok(()));
    }
}
