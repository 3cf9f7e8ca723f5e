//! What can go wrong, and with which exit code keelctl ends.

use std::path::PathBuf;
use std::process::ExitCode;

use keelson_api::{ErrorBody, ErrorCode, FieldFault};

use crate::{
    client::ClientError, config::ConfigError, credential::CredentialError, key::KeyError, private_file::FileError,
};

/// How keelctl ends. Scripts may rely on the numbers; 2 is a mistake in the arguments, as clap reports it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ExitStatus {
    Success,
    /// Something on this machine failed, or nothing below fits.
    Failure,
    /// A mistake in the arguments that clap does not see.
    Arguments,
    /// The configuration file, a context or a key file.
    Configuration,
    /// The node cannot be reached, or is not the one whose fingerprint is pinned.
    Unreachable,
    /// The node does not accept the operator's key.
    Refused,
    /// The node answered with an error.
    Answer,
    /// What `--wait` waited for did not come in time.
    NotInTime,
}

/// For `keelctl --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something on this machine failed
  2  a mistake in the arguments
  3  the configuration file, a context or a key file is missing or malformed
  4  the node cannot be reached, or is not the one whose fingerprint is pinned
  5  the node does not accept the operator's key
  6  the node answered with an error
  7  what --wait waited for did not come in time";

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Success => 0,
            ExitStatus::Failure => 1,
            ExitStatus::Arguments => 2,
            ExitStatus::Configuration => 3,
            ExitStatus::Unreachable => 4,
            ExitStatus::Refused => 5,
            ExitStatus::Answer => 6,
            ExitStatus::NotInTime => 7,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the certificate for context {context:?}")]
    Credential { context: String, source: CredentialError },
    #[error("{endpoint}")]
    Client { endpoint: String, source: ClientError },
    #[error("{endpoint} answers: {}", describe(body))]
    Answer { endpoint: String, body: ErrorBody },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Argument(String),
    #[error(
        "{} is there and is no kubeconfig of {cluster} alone, so it is left alone; choose another file with --output-file",
        path.display()
    )]
    ForeignKubeconfig { path: PathBuf, cluster: String },
    #[error("{} is there and cannot be read, so it is left alone", path.display())]
    UnreadableKubeconfig { path: PathBuf, source: std::io::Error },
    #[error("the document {}", path.display())]
    Document { path: PathBuf, source: std::io::Error },
    #[error("the cluster would not take such a token: {problem} ({field})")]
    Token { field: &'static str, problem: String },
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    #[error("cannot format the output: {0}")]
    Format(String),
    #[error("not in time: {0}")]
    NotInTime(String),
}

fn describe(body: &ErrorBody) -> String {
    match &body.field {
        // Each fault is told for itself.
        Some(field) if body.faults.is_empty() => format!("{} ({field})", body.message),
        _ => body.message.clone(),
    }
}

impl Error {
    pub(crate) fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Config(_) | Self::Key(_) => ExitStatus::Configuration,
            Self::Argument(_) => ExitStatus::Arguments,
            Self::Client { source, .. } if source.is_own_fault() => ExitStatus::Failure,
            Self::Client { .. } => ExitStatus::Unreachable,
            Self::Answer { body, .. } if body.code == ErrorCode::Unauthenticated => ExitStatus::Refused,
            Self::Answer { .. } => ExitStatus::Answer,
            Self::NotInTime(_) => ExitStatus::NotInTime,
            Self::Credential { .. }
            | Self::File(_)
            | Self::ForeignKubeconfig { .. }
            | Self::UnreadableKubeconfig { .. }
            | Self::Document { .. }
            | Self::Token { .. }
            | Self::Runtime(_)
            | Self::Output(_)
            | Self::Format(_) => ExitStatus::Failure,
        }
    }

    /// What is wrong with a document that the node has refused.
    pub(crate) fn faults(&self) -> &[FieldFault] {
        match self {
            Self::Answer { body, .. } => &body.faults,
            _ => &[],
        }
    }

    /// Whether the reader of the output has gone, as `head` does: nothing to complain about.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}
