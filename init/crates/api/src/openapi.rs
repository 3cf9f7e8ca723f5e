//! The OpenAPI document, made from the types.
//!
//! [`OPERATIONS`] lists every endpoint once, with who may call it; the server's tests walk the same list, so an endpoint
//! that is served and not documented, or documented and not guarded as it says, fails a test. The document is committed as
//! `openapi.json` beside this crate for readers and generators, and a test says how to renew it.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    BootDetails, BootList, Certificate, CertificateRequest, Challenge, Configuration, CreatedToken, Denial, DrainStep,
    ErrorBody, EventList, Feature, FeatureChange, FeatureList, JoinRequest, Joined, KubeconfigMaterial,
    KubeconfigRequest, Membership, NodeCertificateList, NodeList, NodeOrder, NodeOrdered, NodeSettings, OperatorEntry,
    OperatorList, OperatorRequest, PowerAccepted, PowerRequest, ProxyStatus, PublicAuthority, RemovalOrder,
    RenewRequest, Renewed, Rotation, ScopeConfiguration, ScopeConfigurationChange, ScopeConfigurationRequest,
    ServiceList, Status, StoreMembers, TokenEntry, TokenList, TokenRequest,
    logs::{LINES_DEFAULT, LINES_MAX},
    paths,
};

/// The document as it is committed and served.
pub const DOCUMENT: &str = include_str!("../openapi.json");

/// The version of OpenAPI whose schemas are JSON Schema 2020-12, which is what is generated.
const OPENAPI_VERSION: &str = "3.1.0";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Everyone: what is needed to obtain a certificate.
    Public,
    /// Whoever shows an operator's client certificate, and root on the node's own socket.
    Operator,
    /// A member of the cluster, by its node's client certificate.
    Node,
}

/// What an answer of status 200 holds.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    Json(fn(&mut SchemaGenerator) -> Value),
    /// Log lines.
    Text,
    /// This document.
    Document,
}

/// One endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub summary: &'static str,
    pub request: Option<fn(&mut SchemaGenerator) -> Value>,
    pub answer: Content,
}

const fn get(path: &'static str, summary: &'static str, answer: Content) -> Operation {
    Operation { method: Method::Get, path, access: Access::Operator, summary, request: None, answer }
}

const fn post(
    path: &'static str,
    summary: &'static str,
    request: fn(&mut SchemaGenerator) -> Value,
    answer: Content,
) -> Operation {
    Operation { method: Method::Post, path, access: Access::Operator, summary, request: Some(request), answer }
}

const fn put_configuration(path: &'static str, summary: &'static str) -> Operation {
    let answer = json_of::<ScopeConfigurationChange>();
    Operation { method: Method::Put, ..post(path, summary, schema_of::<ScopeConfigurationRequest>, answer) }
}

const fn delete(path: &'static str, summary: &'static str, answer: Content) -> Operation {
    Operation { method: Method::Delete, ..get(path, summary, answer) }
}

const fn node_order(path: &'static str, summary: &'static str, answer: Content) -> Operation {
    post(path, summary, schema_of::<NodeOrder>, answer)
}

impl Operation {
    const fn public(mut self) -> Self {
        self.access = Access::Public;
        self
    }

    const fn node(mut self) -> Self {
        self.access = Access::Node;
        self
    }
}

/// Every endpoint of the API.
pub const OPERATIONS: &[Operation] = &[
    get(
        paths::AUTHORITY,
        "The API's certificate authority, to be compared by fingerprint",
        json_of::<PublicAuthority>(),
    )
    .public(),
    post(
        paths::AUTHORITY_ROTATION,
        "Exchanges the cluster's authorities, all certificates and the key of its Secrets, while the cluster runs",
        schema_of::<NodeOrder>,
        json_of::<Rotation>(),
    ),
    get(paths::MEMBERSHIP, "Whether this node has a cluster, for one that is to found one", json_of::<Membership>())
        .public(),
    get(paths::CHALLENGE, "A nonce to prove an operator's key with", json_of::<Challenge>()).public(),
    post(
        paths::OPERATOR_CERTIFICATE,
        "A client certificate for 24 hours, for the proof of an operator's key",
        schema_of::<CertificateRequest>,
        json_of::<Certificate>(),
    )
    .public(),
    get(paths::OPERATORS, "Whose keys obtain certificates", json_of::<OperatorList>()),
    post(
        paths::OPERATORS,
        "Lets the holder of a key obtain certificates",
        schema_of::<OperatorRequest>,
        json_of::<OperatorEntry>(),
    ),
    delete(
        paths::OPERATOR,
        "Removes an operator with all keys, or one key: it obtains no certificate any more",
        json_of::<OperatorList>(),
    ),
    get(paths::STATUS, "What this node says of itself, and why it is not ready", json_of::<Status>()),
    get(
        paths::CERTIFICATES,
        "The certificates that this node has, and when they end and are renewed",
        json_of::<NodeCertificateList>(),
    ),
    get(paths::CONFIGURATION, "What this node goes by, and who said it", json_of::<Configuration>()),
    get(
        paths::CLUSTER_CONFIGURATION,
        "What operators have said of all nodes of the cluster",
        json_of::<ScopeConfiguration>(),
    ),
    put_configuration(
        paths::CLUSTER_CONFIGURATION,
        "Says something else of all nodes of the cluster; what is so already changes nothing",
    ),
    get(paths::NODE_CONFIGURATION, "What operators have said of a node", json_of::<ScopeConfiguration>()),
    put_configuration(paths::NODE_CONFIGURATION, "Says something else of a node; what is so already changes nothing"),
    get(
        paths::NODES,
        "The cluster's nodes, as Kubernetes knows them, and members that it does not know yet",
        json_of::<NodeList>(),
    ),
    node_order(paths::NODE_CORDON, "Keeps new pods away from a node", json_of::<NodeOrdered>()),
    node_order(paths::NODE_UNCORDON, "Lets pods onto a node again", json_of::<NodeOrdered>()),
    node_order(paths::NODE_DRAIN, "Asks a node's pods to go, and says which are left", json_of::<DrainStep>()),
    post(
        paths::NODE_REMOVAL,
        "Removes a node for good: its identity is denied, its Node and Pods are deleted",
        schema_of::<RemovalOrder>,
        json_of::<NodeOrdered>(),
    ),
    get(paths::STORE_MEMBERS, "The members of the store, and which of them vote", json_of::<StoreMembers>()),
    get(paths::FEATURES, "What the cluster has beside its components, and how it stands", json_of::<FeatureList>()),
    post(
        paths::FEATURE,
        "Enables, disables or sets a feature; what is so already changes nothing",
        schema_of::<FeatureChange>,
        json_of::<Feature>(),
    ),
    get(paths::EVENTS, "What happened to the cluster, the oldest first", json_of::<EventList>()),
    get(paths::SERVICES, "The services that PID 1 supervises on this node", json_of::<ServiceList>()),
    get(paths::SERVICE_LOGS, "A service's log on this node", Content::Text),
    get(paths::PROXY, "The API servers that this node's proxy knows, and how they are", json_of::<ProxyStatus>()),
    get(paths::BOOTS, "This node's boots, newest first", json_of::<BootList>()),
    get(
        paths::BOOT,
        "All that this node knows of one of its boots: image, phases, the kernel's last messages",
        json_of::<BootDetails>(),
    ),
    post(paths::REBOOT, "Reboots this node in order", schema_of::<PowerRequest>, json_of::<PowerAccepted>()),
    post(paths::POWER_OFF, "Switches this node off in order", schema_of::<PowerRequest>, json_of::<PowerAccepted>()),
    post(
        paths::KUBECONFIG,
        "A client certificate for Kubernetes' API for 24 hours, and what else a kubeconfig needs",
        schema_of::<KubeconfigRequest>,
        json_of::<KubeconfigMaterial>(),
    ),
    get(paths::TOKENS, "Join tokens, without their secrets", json_of::<TokenList>()),
    post(paths::TOKENS, "Makes a join token", schema_of::<TokenRequest>, json_of::<CreatedToken>()),
    delete(
        paths::TOKEN,
        "Revokes a join token, also one that was made offline and is not known yet",
        json_of::<TokenEntry>(),
    ),
    post(
        paths::JOIN,
        "Makes the caller a member of the cluster, for a join token",
        schema_of::<JoinRequest>,
        json_of::<Joined>(),
    )
    .public(),
    post(
        paths::NODE_CERTIFICATES,
        "Renews a node's certificates, for the proof of its key",
        schema_of::<RenewRequest>,
        json_of::<Renewed>(),
    )
    .public(),
    get(paths::NODE_SETTINGS, "What the calling node has to know of its cluster", json_of::<NodeSettings>()).node(),
    node_order(
        paths::NODE_STORE_MEMBER,
        "Makes the calling control plane's store a member of the cluster's",
        json_of::<StoreMembers>(),
    )
    .node(),
    post(paths::DENIALS, "Denies a removed node's access to Kubernetes", schema_of::<Value>, json_of::<Denial>())
        .public(),
    get(paths::OPENAPI, "This document", Content::Document),
];

const fn json_of<T: JsonSchema>() -> Content {
    Content::Json(schema_of::<T>)
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// Makes the document.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = SchemaGenerator::new(settings);
    let error = schema_of::<ErrorBody>(&mut generator);

    let mut all = Map::new();
    for operation in OPERATIONS {
        let path = all.entry(operation.path).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(methods) = path {
            let name = operation.method.name().to_lowercase();
            methods.insert(name, describe(operation, &error, &mut generator));
        }
    }
    json!({
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "Keelson",
            "version": crate::VERSION,
            "description": "The API of a Keelson node, on port 6400 over TLS 1.3 and on the node's own unix socket.",
        },
        "paths": all,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "operator": {
                    "type": "mutualTLS",
                    "description": "A client certificate from POST /v1/operators/certificate",
                },
                "node": {
                    "type": "mutualTLS",
                    "description": "The client certificate of a node, from POST /v1/join",
                },
            },
        },
    })
}

fn describe(operation: &Operation, error: &Value, generator: &mut SchemaGenerator) -> Value {
    let answer = match operation.answer {
        Content::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Content::Document => json!({ "application/json": { "schema": { "type": "object" } } }),
        Content::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let security = match operation.access {
        Access::Public => json!([]),
        Access::Operator => json!([{ "operator": [] }]),
        Access::Node => json!([{ "node": [] }]),
    };
    let mut described = json!({
        "summary": operation.summary,
        "security": security,
        "responses": {
            "200": { "description": "Done", "content": answer },
            "default": { "description": "Refused", "content": { "application/json": { "schema": error } } },
        },
    });
    if let Value::Object(fields) = &mut described {
        if let Some(schema) = operation.request {
            let body = json!({ "required": true, "content": { "application/json": { "schema": schema(generator) } } });
            fields.insert("requestBody".to_owned(), body);
        }
        match operation.path {
            paths::SERVICE_LOGS => drop(fields.insert("parameters".to_owned(), log_parameters())),
            paths::EVENTS => drop(fields.insert("parameters".to_owned(), event_parameters())),
            paths::NODE_SETTINGS => drop(fields.insert("parameters".to_owned(), authority_parameters())),
            paths::BOOT => drop(fields.insert("parameters".to_owned(), boot_parameters())),
            paths::TOKEN => drop(fields.insert("parameters".to_owned(), json!([path_parameter("id")]))),
            path if path.contains("{name}") => {
                fields.insert("parameters".to_owned(), json!([path_parameter("name")]));
            }
            _ => {}
        }
    }
    described
}

/// The fields of [`crate::LogQuery`] and the service's name.
fn log_parameters() -> Value {
    json!([
        path_parameter("name"),
        { "name": "lines", "in": "query", "description": "How many of the newest lines",
          "schema": { "type": "integer", "minimum": 0, "maximum": LINES_MAX, "default": LINES_DEFAULT } },
        { "name": "follow", "in": "query", "description": "Whether to go on with lines as they come",
          "schema": { "type": "boolean", "default": false } },
    ])
}

/// The fields of [`crate::EventQuery`].
fn event_parameters() -> Value {
    json!([
        { "name": "after", "in": "query", "description": "Only what has a later revision",
          "schema": { "type": "integer" } },
    ])
}

/// What a node says of itself as it asks for its settings.
fn authority_parameters() -> Value {
    json!([
        { "name": "certifiedBy", "in": "query", "schema": { "type": "string" },
          "description": "The id of the generation of authorities that has certified the node: 16 digits of the fingerprint of its api" },
        { "name": "believed", "in": "query", "schema": { "type": "string" },
          "description": "The ids of those that the node believes, with commas between them" },
    ])
}

fn boot_parameters() -> Value {
    json!([{ "name": "number", "in": "path", "required": true, "schema": { "type": "integer", "minimum": 1 } }])
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Set to anything, it makes the test below write the document instead of comparing it.
    const UPDATE_VARIABLE: &str = "KEELSON_UPDATE_OPENAPI";

    #[test]
    fn the_committed_document_is_current() {
        let current = document();
        if std::env::var_os(UPDATE_VARIABLE).is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
            let text = serde_json::to_string_pretty(&current).expect("a document");
            fs::write(path, text + "\n").expect("written");
            return;
        }
        assert!(
            serde_json::from_str::<Value>(DOCUMENT).is_ok_and(|committed| committed == current),
            "openapi.json is not what the types say; run: {UPDATE_VARIABLE}=1 cargo test -p keelson-api"
        );
    }

    #[test]
    fn every_reference_points_at_a_schema() {
        let document = document();
        let text = document.to_string();
        let mut references = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().expect("the end of a string");
            assert!(document.pointer(pointer).is_some(), "{pointer} points nowhere");
            references += 1;
        }
        assert!(references > 20, "only {references} references");
    }

    #[test]
    fn only_the_way_to_a_certificate_whether_there_is_a_cluster_and_a_plain_no_are_public() {
        let public: Vec<_> =
            OPERATIONS.iter().filter(|operation| operation.access == Access::Public).map(|o| o.path).collect();
        let certificates = [paths::CHALLENGE, paths::OPERATOR_CERTIFICATE, paths::JOIN, paths::NODE_CERTIFICATES];
        let no = [paths::DENIALS];
        assert_eq!(public, [&[paths::AUTHORITY, paths::MEMBERSHIP], &certificates[..], &no].concat());
    }

    #[test]
    fn requests_refuse_unknown_fields_and_answers_tolerate_them() {
        let schemas = document();
        let additional =
            |name: &str| schemas.pointer(&format!("/components/schemas/{name}/additionalProperties")).cloned();
        for request in [
            "CertificateRequest",
            "KubeconfigRequest",
            "PowerRequest",
            "TokenRequest",
            "JoinRequest",
            "RenewRequest",
            "NodeOrder",
            "RemovalOrder",
            "OperatorRequest",
            "FeatureChange",
            "ScopeConfigurationRequest",
        ] {
            assert_eq!(additional(request), Some(Value::Bool(false)), "{request}");
        }
        for answer in ["Status", "NodeList", "ServiceList", "Certificate", "Joined", "NodeSettings", "TokenList"] {
            assert_eq!(additional(answer), None, "{answer}");
        }
    }
}
