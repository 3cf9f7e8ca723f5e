//! What can go wrong in a build: always with the step's name and the object it was at.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a build stopped.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Debian packages are missing and may not be installed by us.
    #[error("Debian packages are missing; install them with:\n    {command}")]
    PackagesMissing {
        /// The line to type.
        command: String,
    },

    /// A program could not be started at all.
    #[error("{step}: cannot start {program}")]
    Start {
        /// The step that wanted it.
        step: String,
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },

    /// A command ran and failed.
    #[error("{step}: {command}\nended with {status}; the end of {log}:\n{tail}", log = log.display())]
    Command {
        /// The step it belongs to.
        step: String,
        /// The whole command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Where all its output is.
        log: PathBuf,
        /// The output's last lines.
        tail: String,
    },

    /// A file could not be read, written, moved or removed.
    #[error("cannot {operation} {path}", path = path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// The allowlist names something that no part of the build provides.
    #[error("the root's allowlist, line {line}: {problem}")]
    Allowlist {
        /// The line in image/root.allow.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },

    /// A program needs a library that is in no package of the image.
    #[error("{program} needs {library}, which no package of the image provides")]
    LibraryMissing {
        /// The file that needs it.
        program: PathBuf,
        /// The library's name.
        library: String,
    },

    /// A file is not of the form that it must have.
    #[error("{path}: {problem}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// There is neither `XDG_CACHE_HOME` nor `HOME`.
    #[error("no place for the cache: neither XDG_CACHE_HOME nor HOME is set")]
    NoCacheFolder,
}

/// Names the operation and the path of a failed file access.
pub(crate) trait FileContext<T> {
    fn at(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T, BuildError>;
}

impl<T> FileContext<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T, BuildError> {
        self.map_err(|source| BuildError::File { operation, path: path.into(), source })
    }
}
