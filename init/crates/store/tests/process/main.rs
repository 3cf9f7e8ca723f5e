//! The real process: started, killed, filled up and stopped, as its users and their supervisors do it.

#![forbid(unsafe_code)]
#![cfg(test)]

mod connections;
mod crash;
mod harness;
mod lifecycle;
mod space;
