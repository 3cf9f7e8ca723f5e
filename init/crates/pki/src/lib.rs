//! Authorities, certificates and kubeconfigs.
//!
//! Everything that turns keys into files stands here, so that `keelson-cluster` decides only who gets which identity.
//! What holds:
//!
//! - A key and its certificate live in one file ([`pair`]): a single rename replaces both, so no power cut and no
//!   reader between two renames ever sees a key beside another key's certificate.
//! - Each authority certifies for one purpose and says so in its own certificate: path length zero, and an extended key
//!   usage wherever the authority serves one side only ([`authority`]).
//! - A subject is never copied from a request. From a request comes its public key, after its signature was checked;
//!   the names come from whoever decided to issue ([`profile`]).
//! - Nothing here prints a key: the types that hold one have a `Debug` of their own.
//! - Time is an argument. See [`validity`] for what that means before the first time synchronisation.
#![forbid(unsafe_code)]

pub mod anchors;
pub mod authority;
pub mod files;
pub mod key;
pub mod kubeconfig;
pub mod pair;
pub mod pin;
pub mod profile;
pub mod validity;
pub mod verifier;

pub use anchors::{AnchorsError, TrustAnchors};
pub use authority::{Authority, AuthorityError, AuthorityKind, Fingerprint, request_key};
pub use files::{Files, FilesError, Mode, Owner, StandardFiles};
pub use key::{Key, KeyError};
pub use pair::{Pair, PairError};
pub use pin::PinnedVerifier;
pub use profile::{Names, Profile, Subject, Usage};
pub use validity::{Clock, Validity};
pub use verifier::Verifier;
