//! Jobs: what PID 1 has done by a process that may hang, crash or be killed in its stead. See keelson-job for the contract.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use keelson_job::{ANSWERED_FD, Fault, REQUEST_FD, RESULT_FD, Request};
use keelson_sys::descriptor;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::Serialize;
use thiserror::Error;

use crate::{config, disk, read_ahead, root, state};

#[derive(Debug, Error)]
enum JobError {
    #[error("cannot read the request")]
    ReadRequest(#[source] io::Error),
    #[error("the request is malformed")]
    ParseRequest(#[source] serde_json::Error),
}

/// Does the job that the request names. Its failure is an answer too; only an answer that cannot be written is a failure of
/// this process.
pub(crate) fn run() -> ExitCode {
    let [request, result, answered] = [REQUEST_FD, RESULT_FD, ANSWERED_FD].map(left_open);
    let answer = match read_request(request) {
        Ok(Request::Root { command_line }) => encode(root::run(&command_line.0)),
        Ok(Request::Selection { command_line }) => encode(config::selection(command_line.0)),
        Ok(Request::Disks { command_line, selection }) => encode(disk::run(&command_line.0, selection)),
        Ok(Request::OpenState { booted_at, progress }) => encode(state::open(booted_at, progress)),
        Ok(Request::Configuration { command_line, remembered }) => encode(config::run(command_line.0, &remembered)),
        Ok(Request::ReadAhead { files }) => {
            read_ahead::run(&files);
            encode::<_, Infallible>(Ok(()))
        }
        Ok(Request::UserImages) => encode(disk::mount_user_images()),
        Ok(Request::KeepState { progress }) => encode(state::keep(progress)),
        Ok(Request::CloseState { progress, end }) => encode(state::close(progress, end)),
        Err(error) => encode::<(), _>(Err(error)),
    };
    let written = answer.and_then(|answer| result?.write_all(&answer));
    drop(answered);
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_request(file: io::Result<File>) -> Result<Request, JobError> {
    let mut text = Vec::new();
    file.and_then(|mut file| file.read_to_end(&mut text)).map_err(JobError::ReadRequest)?;
    serde_json::from_slice(&text).map_err(JobError::ParseRequest)
}

/// What PID 1 left open under this number. Programs that the job starts do not have it.
fn left_open(number: i32) -> io::Result<File> {
    let descriptor = descriptor::inherited(number)?;
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(File::from(descriptor))
}

fn encode<T: Serialize, E: std::error::Error + 'static>(result: Result<T, E>) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&result.map_err(|error| Fault { message: chain(&error) }))?)
}

/// An error with its causes. This is the one place of this program where a chain becomes text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
