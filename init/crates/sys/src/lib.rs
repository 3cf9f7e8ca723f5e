//! The system calls that PID 1 and its helpers need; the one crate with unsafe code.
