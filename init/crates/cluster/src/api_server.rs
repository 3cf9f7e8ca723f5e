//! The node's API: HTTPS on port 6400 for operators, and the same on a unix socket for root.
//!
//! Who may do what is decided in one place, [`router`], before a request is looked at any further: some endpoints lead to
//! a certificate and answer to everyone, what nodes ask answers to a node's certificate, and all others answer 401 to
//! whoever does not show an operator's. A certificate of another authority does not get past the TLS handshake. The unix
//! socket answers to root by peer credentials and needs no certificate.
//!
//! It answers before the store and Kubernetes do, because its first use is to say why they do not. TLS has to wait for the
//! node's certificates; the unix socket does not.
//!
//! A worker answers for itself, and passes connections for a control plane on ([`passage`]).
//!
//! Everything is bounded: connections, the size of headers and bodies, the time for a handshake, a header, a body and an
//! answer. Nobody who shows no certificate keeps others out by connections ([`slots`]) or attempts ([`limiter`]). Only a log that is
//! followed may last, and a peer that stops taking it is cut off by TCP's user timeout. HTTP/1.1 is all that is spoken: answers are small
//! and few.

pub mod boots;
pub mod caller;
mod certificates;
pub mod challenge;
pub mod configuration;
pub mod connection;
pub mod departures;
pub mod events;
pub mod features;
pub mod limiter;
pub mod logs;
pub mod members;
pub mod operators;
mod passage;
pub mod power;
mod proxy;
pub mod respond;
pub mod router;
mod slots;
pub mod sources;
pub mod tls;
pub mod usage;
pub mod views;

mod listen;

pub use listen::{Endpoints, serve};
pub use sources::{Answer, NodeSource, NodeSourceError};
