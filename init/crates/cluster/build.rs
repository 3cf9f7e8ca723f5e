//! Generates the gRPC messages from proto/ with a compiler in Rust, so that no protoc is needed.
#![forbid(unsafe_code)]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let signer = protox::compile(["signer.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(true).compile_fds(signer)?;
    let containerd = protox::compile(["content.proto", "images.proto", "leases.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(containerd)?;
    Ok(())
}
