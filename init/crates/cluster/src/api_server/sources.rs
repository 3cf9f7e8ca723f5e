//! What the API asks of other parts of keelson-cluster.

use std::{fmt, future::Future, pin::Pin};

use keelson_api::{DrainStep, NodeList};

use crate::features::dns::Deployed;

/// Why Kubernetes could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeSourceError {
    /// It does not answer yet, or not any more; the text says what was tried.
    #[error("Kubernetes' API does not answer: {0}")]
    Unavailable(String),
    #[error("Kubernetes has no such node")]
    NotFound,
    /// It answered something else than what was asked for.
    #[error("Kubernetes' API answered with an error: {0}")]
    Refused(String),
}

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, NodeSourceError>> + Send + 'a>>;

/// The cluster's nodes, as Kubernetes' API tells them, and what it can be asked to do with one.
pub trait NodeSource: fmt::Debug + Send + Sync {
    fn nodes(&self) -> Answer<'_, NodeList>;
    /// Whether new pods are kept away. Says whether that is news.
    fn set_unschedulable<'a>(&'a self, name: &'a str, unschedulable: bool) -> Answer<'a, bool>;
    /// One step of draining a node that new pods are kept away from.
    fn drain<'a>(&'a self, name: &'a str) -> Answer<'a, DrainStep>;
    /// The cluster's own DNS, if there is one.
    fn dns(&self) -> Answer<'_, Option<Deployed>>;
    /// Deletes the objects of a node that is no member any more.
    fn clean<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}
