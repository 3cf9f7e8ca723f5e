//! Messages generated from proto/, kept apart from hand-written code.

macro_rules! generated {
    ($name:ident, $package:literal) => {
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
            tonic::include_proto!($package);
        }
    };
}

/// kube-apiserver's external signer.
pub mod signer {
    generated!(v1, "v1");
}

/// containerd, in the nesting that the generated code expects.
pub mod containerd {
    generated!(types, "containerd.types");

    pub mod services {
        pub mod content {
            generated!(v1, "containerd.services.content.v1");
        }
        pub mod images {
            generated!(v1, "containerd.services.images.v1");
        }
        pub mod leases {
            generated!(v1, "containerd.services.leases.v1");
        }
    }
}
