//! What the API asks of other parts of keelson-cluster.

use std::{fmt, future::Future, pin::Pin};

use keelson_api::NodeList;

/// Why Kubernetes could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeSourceError {
    /// It does not answer yet, or not any more; the text says what was tried.
    #[error("Kubernetes' API does not answer: {0}")]
    Unavailable(String),
    /// It answered something else than a list of nodes.
    #[error("Kubernetes' API answered with an error: {0}")]
    Refused(String),
}

/// The cluster's nodes, as Kubernetes' API tells them.
pub trait NodeSource: fmt::Debug + Send + Sync {
    fn nodes(&self) -> Pin<Box<dyn Future<Output = Result<NodeList, NodeSourceError>> + Send + '_>>;
}
