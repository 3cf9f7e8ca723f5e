//! What is started later is read now, while this machine's processors wait for its disks.
//!
//! Every page of the root is decompressed and verified when it is first read, and a program that starts for the first time waits for
//! hundreds of them one after the other. Nobody waits for this job, and it runs when no one else does.

use std::path::Path;

use keelson_job::Request;

use super::{Machine, PhaseResult};
use crate::boot::job::Background;
use crate::console::Console;

const FOLDER: &str = "/usr/bin";
/// In the order in which they are started. The parts of Kubernetes are one program.
const PROGRAMS: [&str; 7] =
    ["keelson-cluster", "keelson-log", "keelson-network", "keelson-proxy", "keelson-store", "kubernetes", "containerd"];

pub(super) fn run(_: &mut Machine, _: &mut Console) -> PhaseResult {
    let files = PROGRAMS.iter().map(|program| Path::new(FOLDER).join(program)).collect();
    // Its end is heard by whoever reaps orphans.
    Background::start(&Request::ReadAhead { files })?;
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use keelson_config::{Inputs, Remembered};

    use super::*;

    #[test]
    fn programs_of_all_services_are_read() {
        let inputs = Inputs { command_line: b"keelson.role=control-plane".to_vec(), ..Inputs::default() };
        let node = keelson_config::resolve(&inputs, &Remembered::default()).unwrap().node;
        for spec in keelson_init::services::all(&node, &[]).unwrap() {
            let read = PROGRAMS.iter().any(|program| Path::new(FOLDER).join(program) == Path::new(&spec.program));
            assert!(read, "{}", spec.name);
        }
    }
}
