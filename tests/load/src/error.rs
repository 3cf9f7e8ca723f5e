//! What can go wrong while measuring. Nothing is measured around a failure: it ends the run.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {operation} {path}", path = path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("make certificates")]
    Certificates(#[source] rcgen::Error),
    #[error("start {program}")]
    Start { program: String, source: std::io::Error },
    #[error("{name} did not {what} in time; its log ends with:\n{log}")]
    Late { name: String, what: &'static str, log: String },
    #[error("connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("{workload}: a request was refused")]
    Refused {
        workload: String,
        #[source]
        status: Box<tonic::Status>,
    },
    #[error("{0}: nothing was answered")]
    Silent(String),
    #[error("a worker of the load ended early")]
    Worker(#[source] tokio::task::JoinError),
    #[error("encode the figures")]
    Encode(#[source] serde_json::Error),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn refused(workload: &str) -> impl Fn(tonic::Status) -> Self {
        let workload = workload.to_owned();
        move |status| Self::Refused { workload: workload.clone(), status: Box::new(status) }
    }

    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}
