//! keelctl as an operator runs it: the real program against the real API.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "../../cluster/tests/support/fixture.rs"]
mod fixture;

#[cfg(test)]
#[path = "support/commands.rs"]
mod commands;
#[cfg(test)]
#[path = "support/keelctl.rs"]
mod keelctl;
#[cfg(test)]
#[path = "support/trust.rs"]
mod trust;
