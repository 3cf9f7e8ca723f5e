//! What PID 1 hands to `keelson-exec service`, which sets a child up and then becomes the service.
//!
//! The child begins with nothing but these descriptors: 0 is /dev/null, 1 and 2 are the service's log pipe, [`JOB_FD`] is
//! a sealed memfd with the [`ChildJob`] as JSON, [`STATUS_FD`] is a pipe to PID 1, and [`PASSED_FD`] is a descriptor that
//! the service itself is to get (if [`ChildJob::passes_descriptor`]), as its number 3.
//!
//! On the status pipe the child writes [`STATUS_GO`] as the last thing before it executes the program; what follows is
//! why that failed. A pipe that closes after nothing but that byte closed because the program runs; one that closes
//! empty, because the child died first.

use serde::{Deserialize, Serialize};

use crate::ServiceSpec;

pub const JOB_FD: i32 = 3;
pub const STATUS_FD: i32 = 4;
pub const PASSED_FD: i32 = 5;

/// Under this number the service finds the descriptor passed to it, and under [`PASSED_VARIABLE`] that number.
pub const PASSED_AS_FD: i32 = 3;
pub const PASSED_VARIABLE: &str = "KEELSON_LOG_FD";

pub const STATUS_GO: u8 = b'+';

/// The longest text on the status pipe: less than `PIPE_BUF`, so that it is written at once.
pub const STATUS_MAX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildJob {
    pub spec: ServiceSpec,
    pub passes_descriptor: bool,
}
