//! The etcd v3 messages and services, generated from the definitions in proto/.
//!
//! A client uses [`etcdserverpb`] with its `kv_client`, `watch_client` and so on. A server implements the traits of
//! [`server`], whose messages have the same wire format but carry [`encoded`] key-value pairs: a store keeps each pair
//! encoded as it goes over the wire, shares it by reference count between history, reads and watches, and answers by
//! copying bytes instead of building and walking messages.
//!
//! The generated code is kept in modules of its own, which alone are free from this project's lints.
#![forbid(unsafe_code)]

pub mod encoded;

/// What a call says, in gRPC's metadata, that is about the cluster's own keys and not about everybody's, with [`CLUSTER_KEYS_VALUE`]. Not etcd's.
pub const CLUSTER_KEYS: &str = "keelson-keys";
pub const CLUSTER_KEYS_VALUE: &str = "cluster";

/// The definitions themselves, without comments: an encoded `google.protobuf.FileDescriptorSet`.
pub const DEFINITIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/definitions.bin"));

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::allow_attributes_without_reason,
            missing_debug_implementations,
            unreachable_pub,
            unused_qualifications,
            reason = "generated code"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file));
        }
    };
}

generated!(
    /// Key-value pairs and events as ordinary messages.
    mvccpb,
    "client/mvccpb.rs"
);
generated!(
    /// What etcd's messages need of its authentication.
    authpb,
    "client/authpb.rs"
);
generated!(
    /// All messages, and the clients.
    etcdserverpb,
    "client/etcdserverpb.rs"
);
generated!(
    /// The services to implement, and the messages that hold encoded key-value pairs.
    server,
    "server/etcdserverpb.rs"
);
generated!(
    /// The lock service's messages and client.
    v3lockpb,
    "client/v3lockpb.rs"
);
generated!(
    /// The election service's messages and client.
    v3electionpb,
    "client/v3electionpb.rs"
);

/// What etcd serves besides its store: locks and elections, which are made of keys.
pub mod concurrency {
    generated!(
        /// The service to implement.
        lock,
        "server/v3lockpb.rs"
    );
    generated!(
        /// The service to implement.
        election,
        "server/v3electionpb.rs"
    );
}

/// gRPC's health checking protocol.
pub mod grpc {
    pub mod health {
        generated!(
            /// Messages and client.
            v1,
            "client/grpc.health.v1.rs"
        );
        generated!(
            /// The service to implement.
            server,
            "server/grpc.health.v1.rs"
        );
    }
}
