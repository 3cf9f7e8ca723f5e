//! The certificates that a node has for itself and its components. All of them are leaves, and renew themselves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCertificateList {
    pub certificates: Vec<NodeCertificate>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCertificate {
    /// Whose it is and what for, such as `kubelet/client`; `cluster` is keelson-cluster itself.
    pub purpose: String,
    /// The file that holds it and its key; absent if it lives in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub subject: CertificateSubject,
    /// The cluster's authority that has certified it.
    pub authority: String,
    pub not_before: String,
    pub not_after: String,
    /// When it is renewed, by itself: at two thirds of its life.
    pub renewal: String,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSubject {
    pub common_name: String,
    /// To Kubernetes a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// The UID of the node, in clients' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}
