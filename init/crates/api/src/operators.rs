//! The operators of a cluster, and their credentials: from a key pair to a certificate for a day.
//!
//! 1. `GET /v1/ca` gives the API's authority; the client compares its fingerprint with the one it was told (the node's
//!    console shows it) and trusts nothing before that.
//! 2. `GET /v1/operators/challenge` gives a nonce that lives for a minute and can be used once.
//! 3. The client signs [`crate::proof::message`] with the operator's key and sends it with a request for a certificate.
//! 4. The node compares the key with those of the cluster's records and of its own configuration, and answers with a client
//!    certificate for 24 hours.
//!
//! The first three are the only endpoints that answer without a client certificate.
//!
//! Keys that a control plane is configured with come into the records when it starts. One that an operator has removed stays
//! removed, whatever any configuration says, until an operator adds it again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API's certificate authority, told to everyone and worth nothing until its fingerprint is compared.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicAuthority {
    /// PEM
    pub certificate: String,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// 32 random bytes in base64, good for one attempt.
    pub nonce: String,
    pub expires_in_seconds: u32,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// A PKCS#10 request in PEM. Only its public key counts: the name and the rights come from the node.
    pub csr: String,
    /// The nonce of a challenge, as it came.
    pub nonce: String,
    /// The operator's public key: base64 of the DER `SubjectPublicKeyInfo`.
    pub operator_key: String,
    /// ECDSA P-256 with SHA-256 over [`crate::proof::message`], ASN.1, in base64.
    pub signature: String,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// PEM
    pub certificate: String,
    /// The operator's name, as the certificate says it.
    pub operator: String,
    /// When the certificate stops to be valid.
    pub expires: String,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigRequest {
    /// A PKCS#10 request in PEM. Only its public key counts.
    pub csr: String,
}

/// All of a kubeconfig but the key, which never leaves the client.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigMaterial {
    /// The client certificate, PEM.
    pub certificate: String,
    /// The bundle by which Kubernetes' API server is verified, PEM.
    pub certificate_authority: String,
    /// The URL of Kubernetes' API server as nodes reach it.
    pub server: String,
    /// A name for the cluster in the kubeconfig.
    pub cluster: String,
    /// When the certificate stops to be valid.
    pub expires: String,
}

/// Whose keys obtain certificates.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorList {
    pub operators: Vec<OperatorEntry>,
}

/// One key; an operator may have several.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorEntry {
    /// Follows from the key.
    pub id: String,
    /// The operator's, as certificates say it.
    pub name: String,
    /// Base64 of the DER `SubjectPublicKeyInfo`.
    pub public_key: String,
    pub added: String,
    /// Who has added it.
    pub added_by: String,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorRequest {
    pub name: String,
    /// Base64 of the DER `SubjectPublicKeyInfo`, ECDSA P-256.
    pub public_key: String,
}
