//! Types of keelson-cluster's API, shared by the server and keelctl.
//!
//! Everything that goes over port 6400 (and over the same API's root-only unix socket) is a type of this crate, and the
//! OpenAPI document is made from these types, so that the document, the server and the client cannot tell different stories.
//!
//! Rules that hold for all of it:
//! - the version is the first element of the path ([`VERSION`]); within a version, fields are added and never change their
//!   meaning, so that a keelctl and a node of different releases understand each other
//! - requests refuse unknown fields, answers tolerate them: an operator's typing mistake is told, a newer node is not a fault
//! - times are RFC 3339 in UTC, names of fields are in camelCase as Kubernetes writes them
//! - every refusal is an [`ErrorBody`] that names the field it is about
#![forbid(unsafe_code)]

pub mod boots;
pub mod certificates;
pub mod configuration;
pub mod error;
pub mod events;
pub mod features;
pub mod join;
pub mod logs;
pub mod membership;
pub mod nodes;
pub mod openapi;
pub mod operators;
pub mod paths;
pub mod power;
pub mod proof;
pub mod proxy;
pub mod services;
pub mod status;
pub mod token;
pub mod validation;

pub use boots::{Boot, BootDetails, BootList, BootPhase, SavedFile};
pub use certificates::{CertificateSubject, NodeCertificate, NodeCertificateList};
pub use configuration::{
    Configuration, ConfigurationField, NextValue, NodeScopes, ScopeConfiguration, ScopeConfigurationChange,
    ScopeConfigurationRequest,
};
pub use error::{ErrorBody, ErrorCode, FieldFault};
pub use events::{Event, EventKind, EventList, EventQuery};
pub use features::{Feature, FeatureChange, FeatureList, FeatureSetting, FeatureState};
pub use join::{
    ControlPlaneRequest, Identities, JoinRequest, Joined, MemberAddresses, NodeSettings, RenewRequest, Renewed,
    StoreMember, StoreMembers, TrustBundle, WrappedSecrets,
};
pub use logs::LogQuery;
pub use membership::Membership;
pub use nodes::{Denial, DrainStep, DrainingPod, Node, NodeList, NodeOrder, NodeOrdered, RemovalOrder};
pub use operators::{
    Certificate, CertificateRequest, Challenge, KubeconfigMaterial, KubeconfigRequest, OperatorEntry, OperatorList,
    OperatorRequest, PublicAuthority,
};
pub use power::{PowerAccepted, PowerRequest};
pub use proxy::{ProxyEndpoint, ProxyEndpointState, ProxyStatus};
pub use services::{Service, ServiceList, ServiceState, Usage};
pub use status::{Condition, ConditionStatus, Phase, Rotation, RotationPhase, Status, Versions, VirtualAddress};
pub use token::{CreatedToken, Token, TokenEntry, TokenList, TokenRequest, TokenRole, TokenState};

/// The first element of every path.
pub const VERSION: &str = "v1";

/// In an answer to an operator, while the cluster's authorities are exchanged: the fingerprint by which the cluster will be known.
pub const NEXT_AUTHORITY: &str = "keelson-next-authority";

/// The port on which a node's API answers.
pub const PORT: u16 = 6400;

/// The organisation that marks an operator's client certificate, here and in kubeconfigs.
pub const OPERATORS: &str = "keelson:operators";

/// The organization of a node's client certificate for this API.
pub const NODES: &str = "keelson:nodes";

/// The organization of a control plane's serving certificate, by which a joining node tells it from a worker's.
pub const CONTROL_PLANES: &str = "keelson:control-planes";

/// The name that a client asks for (TLS SNI) to have a worker pass its connection on to a control plane. It is in no certificate: whoever
/// answers has to be of [`CONTROL_PLANES`].
pub const CONTROL_PLANE_NAME: &str = "control-plane.keelson.internal";

/// The organization of a worker's serving certificate.
pub const WORKERS: &str = "keelson:workers";
