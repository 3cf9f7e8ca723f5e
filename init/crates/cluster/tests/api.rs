//! The API as its callers see it: who gets in, what is answered, what is refused and in which words.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "support/caller.rs"]
mod caller;
#[cfg(test)]
#[path = "support/fixture.rs"]
mod fixture;

#[cfg(test)]
#[path = "support/access.rs"]
mod access;
#[cfg(test)]
#[path = "support/answers.rs"]
mod answers;
#[cfg(test)]
#[path = "support/configuration.rs"]
mod configuration;
#[cfg(test)]
#[path = "support/credentials.rs"]
mod credentials;
#[cfg(test)]
#[path = "support/joining.rs"]
mod joining;
#[cfg(test)]
#[path = "support/operators.rs"]
mod operators;
