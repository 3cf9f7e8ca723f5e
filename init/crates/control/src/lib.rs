//! PID 1's control socket: messages, service specifications, client.
#![forbid(unsafe_code)]
