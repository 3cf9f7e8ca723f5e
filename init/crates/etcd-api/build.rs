//! Generates the messages, clients and servers from proto/ with a compiler in Rust, so that no protoc is needed.
//!
//! Two families come out of one definition. Clients get ordinary messages. Servers get the same wire format with
//! `KeyValue` and `Event` replaced by the encoded forms of src/encoded.rs; only the few messages that contain those are
//! generated a second time, all others are the clients'.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use protox::prost_reflect::prost::Message as _;
use protox::prost_reflect::prost_types::{DescriptorProto, EnumDescriptorProto};

/// Messages of the servers' family: all that hold a `KeyValue` or an `Event`, directly or not.
const ENCODED: [&str; 7] = [
    "RangeResponse",
    "RangeStreamResponse",
    "PutResponse",
    "DeleteRangeResponse",
    "ResponseOp",
    "TxnResponse",
    "WatchResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["auth", "election", "health", "kv", "lock", "rpc"] {
        println!("cargo::rerun-if-changed=proto/{file}.proto");
    }
    let definitions = protox::compile(["rpc.proto", "health.proto", "lock.proto", "election.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut bare = definitions.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("definitions.bin"), bare.encode_to_vec())?;

    let client = out.join("client");
    fs::create_dir_all(&client)?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .out_dir(&client)
        .compile_fds(definitions.clone())?;

    let server = out.join("server");
    fs::create_dir_all(&server)?;
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .out_dir(&server)
        .extern_path(".mvccpb.KeyValue", "crate::encoded::KeyValue")
        .extern_path(".mvccpb.Event", "crate::encoded::Event");
    for file in &definitions.file {
        let package = file.package();
        let names = file.message_type.iter().map(DescriptorProto::name);
        for name in names.chain(file.enum_type.iter().map(EnumDescriptorProto::name)) {
            if package != "mvccpb" && !ENCODED.contains(&name) {
                let module = package.replace('.', "::");
                // prost spells `HashKVRequest` in camel case; no other name is changed by that.
                let path = format!("crate::{module}::{}", name.replace("KV", "Kv"));
                builder = builder.extern_path(format!(".{package}.{name}"), path);
            }
        }
    }
    builder.compile_fds(definitions)?;
    Ok(())
}
