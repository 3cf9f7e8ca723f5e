//! From a request to an answer: who may, what is asked, within which bounds.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{Request, body::Body, header::HeaderValue};
use keelson_api::{
    ErrorCode, NEXT_AUTHORITY, NodeOrder,
    openapi::{self, Access, Method, OPERATIONS, Operation},
    paths,
};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{
    boots::{self, EvidenceReader},
    caller::Caller,
    certificates,
    challenge::{ChallengeError, Challenges},
    configuration, departures, events, features,
    limiter::Limiter,
    logs, members, operators,
    power::{self, Order},
    proxy,
    respond::{self, Answer, Refusal},
    sources::NodeSource,
    views,
};
use crate::node::{Member, Node};

/// A join has six certificate requests of half a KiB each, a few keys, and a token.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// How long an answer may take, the parts' own deadlines included.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// What answers are made from.
#[derive(Debug)]
pub struct Context {
    pub node: Arc<Node>,
    pub nodes: Arc<dyn NodeSource>,
    pub challenges: Challenges,
    pub limiter: Limiter,
    pub evidence: EvidenceReader,
}

impl Context {
    pub fn new(node: Arc<Node>, nodes: Arc<dyn NodeSource>) -> Result<Self, ChallengeError> {
        let (challenges, limiter, evidence) = (Challenges::new()?, Limiter::default(), EvidenceReader::default());
        Ok(Self { node, nodes, challenges, limiter, evidence })
    }

    pub(super) fn member(&self) -> Result<Arc<Member>, Refusal> {
        self.node.member_now().ok_or_else(|| {
            Refusal::new(ErrorCode::Unavailable, "the node has no cluster yet, so there is nothing to certify with")
        })
    }
}

impl Context {
    /// By what the cluster will be known.
    fn next_authority(&self) -> Option<HeaderValue> {
        let view = self.node.member_now()?.registry.as_ref()?.view_now()?;
        HeaderValue::try_from(crate::rotation::next_fingerprint(&view)?.to_string()).ok()
    }

    /// Whether the caller's certificate outlives the key that it was obtained with.
    async fn is_removed(&self, caller: &Caller) -> bool {
        let Caller::Operator { name, key, .. } = caller else { return false };
        crate::operators::is_removed(&self.node, name, key).await
    }
}

/// Answers one request, whatever it is.
pub async fn answer<B>(context: Arc<Context>, caller: Caller, request: Request<B>) -> Result<Answer, Infallible>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _under_way = context.node.answering();
    let outcome = match timeout(ANSWER_DEADLINE, dispatch(&context, &caller, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::new(ErrorCode::Timeout, "the node took too long to answer")),
    };
    let mut answer = outcome.unwrap_or_else(Refusal::into_answer);
    if let Caller::Operator { .. } = caller
        && let Some(next) = context.next_authority()
    {
        answer.headers_mut().insert(NEXT_AUTHORITY, next);
    }
    Ok(answer)
}

async fn dispatch<B>(context: &Context, caller: &Caller, request: Request<B>) -> Result<Answer, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let now = OffsetDateTime::now_utc();
    let operator = match caller.authorized(now) {
        Some(operator) if !context.is_removed(caller).await => Some(operator),
        _ => None,
    };
    let found = find(head.method.as_str(), path);
    let open = match found.as_ref().map(|(operation, _)| operation.access) {
        Ok(Access::Public) => true,
        Ok(Access::Node) => caller.is_node(now),
        Ok(Access::Operator) | Err(_) => false,
    };
    // Before anything else is told: what exists is no stranger's business either.
    let operator = match operator {
        Some(operator) => operator,
        None if open => "",
        None => return Err(unauthenticated()),
    };
    let (operation, parameter) = found?;
    let parameter = paths::parameter(parameter).ok_or_else(|| no_such(path))?;
    let parameter = &*parameter;
    match operation.path {
        paths::AUTHORITY_ROTATION => {
            let NodeOrder {} = read(body).await?;
            members::exchange_authorities(context, operator).await.map(|rotation| respond::json(&rotation))
        }
        paths::MEMBERSHIP => Ok(respond::json(&views::membership(&context.node))),
        paths::AUTHORITY => Ok(respond::json(&operators::authority(&*context.member()?))),
        paths::TOKENS
        | paths::TOKEN
        | paths::JOIN
        | paths::NODE_CERTIFICATES
        | paths::NODE_SETTINGS
        | paths::NODE_STORE_MEMBER
        | paths::STORE_MEMBERS
        | paths::OPERATORS
        | paths::OPERATOR
        | paths::CLUSTER_CONFIGURATION
        | paths::NODE_CONFIGURATION => {
            members(context, caller, (operation, parameter, head.uri.query()), operator, body).await
        }
        paths::CHALLENGE => operators::challenge(context, caller).map(|challenge| respond::json(&challenge)),
        paths::OPERATOR_CERTIFICATE => {
            let request = read(body).await?;
            let member = context.member()?;
            let certificate = operators::certificate(context, &member, caller, &request).await;
            certificate.map(|certificate| respond::json(&certificate))
        }
        paths::NODE_REMOVAL => {
            let order = read(body).await?;
            departures::remove(context, parameter, order, operator).await.map(|done| respond::json(&done))
        }
        paths::NODE_CORDON | paths::NODE_UNCORDON | paths::NODE_DRAIN => {
            let NodeOrder {} = read(body).await?;
            departures(context, operation.path, parameter, operator).await
        }
        paths::DENIALS => {
            let _: serde_json::Value = read(body).await?;
            Ok(respond::json(&departures::deny()))
        }
        paths::FEATURES => features::list(context).await.map(|list| respond::json(&list)),
        paths::FEATURE => {
            let change = read(body).await?;
            features::change(context, parameter, &change, operator).await.map(|feature| respond::json(&feature))
        }
        paths::EVENTS => events::list(context, head.uri.query()).await.map(|list| respond::json(&list)),
        paths::STATUS => Ok(respond::json(&views::status(&context.node))),
        paths::CERTIFICATES => certificates::list(context).map(|list| respond::json(&list)),
        paths::CONFIGURATION => match configuration::show(&context.node) {
            Ok(shown) => Ok(respond::json(&shown)),
            Err(error) => Err(Refusal::because(ErrorCode::Internal, &error)),
        },
        paths::NODES => views::nodes(context).await.map(|nodes| respond::json(&nodes)),
        paths::SERVICES => views::services(context).await.map(|services| respond::json(&services)),
        paths::SERVICE_LOGS => logs::answer(context, parameter, head.uri.query()).await,
        paths::PROXY => proxy::status(&context.node).await.map(|status| respond::json(&status)),
        paths::BOOTS => boots::list(context).await.map(|boots| respond::json(&boots)),
        paths::BOOT => boots::details(context, parameter).await.map(|boot| respond::json(&boot)),
        paths::REBOOT | paths::POWER_OFF => {
            let order = if operation.path == paths::REBOOT { Order::Reboot } else { Order::PowerOff };
            let request = read(body).await?;
            power::order(context, order, &request, operator).await.map(|accepted| respond::json(&accepted))
        }
        paths::KUBECONFIG => {
            let request = read(body).await?;
            let member = context.member()?;
            operators::kubeconfig(context, &member, (operator, caller.key()), &request)
                .map(|material| respond::json(&material))
        }
        paths::OPENAPI => Ok(respond::whole("application/json", Bytes::from_static(openapi::DOCUMENT.as_bytes()))),
        path => Err(Refusal::new(ErrorCode::Internal, format!("{path} is documented and not served"))),
    }
}

/// What is done with one node.
async fn departures(context: &Context, path: &str, name: &str, operator: &str) -> Result<Answer, Refusal> {
    if path == paths::NODE_DRAIN {
        return departures::drain(context, name, operator).await.map(|step| respond::json(&step));
    }
    let unschedulable = path == paths::NODE_CORDON;
    let done = departures::set_unschedulable(context, name, unschedulable, operator).await;
    done.map(|done| respond::json(&done))
}

/// What concerns the cluster's members.
async fn members<B>(
    context: &Context,
    caller: &Caller,
    (operation, parameter, query): (&Operation, &str, Option<&str>),
    operator: &str,
    body: B,
) -> Result<Answer, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match (operation.method, operation.path) {
        (Method::Get, paths::TOKENS) => members::list_tokens(context).await.map(|tokens| respond::json(&tokens)),
        (_, paths::TOKENS) => {
            let request = read(body).await?;
            members::create_token(context, &request, operator).await.map(|token| respond::json(&token))
        }
        (_, paths::TOKEN) => {
            members::revoke_token(context, parameter, operator).await.map(|token| respond::json(&token))
        }
        (_, paths::JOIN) => {
            let request = read(body).await?;
            members::join(context, caller, &request).await.map(|joined| respond::json(&joined))
        }
        (_, paths::NODE_CERTIFICATES) => {
            let request = read(body).await?;
            members::renew(context, caller, &request).await.map(|renewed| respond::json(&renewed))
        }
        (_, paths::NODE_STORE_MEMBER) => {
            let NodeOrder {} = read(body).await?;
            members::store_member(context, caller).await.map(|members| respond::json(&members))
        }
        (Method::Get, paths::OPERATORS) => members::list_operators(context).await.map(|list| respond::json(&list)),
        (_, paths::OPERATORS) => {
            let request = read(body).await?;
            members::add_operator(context, &request, operator).await.map(|added| respond::json(&added))
        }
        (_, paths::OPERATOR) => {
            members::remove_operator(context, parameter, operator).await.map(|removed| respond::json(&removed))
        }
        (method, paths::CLUSTER_CONFIGURATION) => scope(context, method, None, operator, body).await,
        (method, paths::NODE_CONFIGURATION) => scope(context, method, Some(parameter), operator, body).await,
        (_, paths::STORE_MEMBERS) => members::store_members(context).await.map(|members| respond::json(&members)),
        _ => members::settings(context, caller, query).await.map(|settings| respond::json(&settings)),
    }
}

/// What operators say of a node, or of the cluster.
async fn scope<B>(
    context: &Context,
    method: Method,
    node: Option<&str>,
    operator: &str,
    body: B,
) -> Result<Answer, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if method == Method::Get {
        return configuration::scope(context, node).await.map(|scope| respond::json(&scope));
    }
    let request = read(body).await?;
    configuration::set_scope(context, node, &request, operator).await.map(|changed| respond::json(&changed))
}

/// The operation that a request asks for, and what stands in the place of the path's parameter, if it has one.
fn find<'a>(method: &str, path: &'a str) -> Result<(&'static Operation, &'a str), Refusal> {
    let mut other_method = None;
    for operation in OPERATIONS {
        let Some(parameter) = matches(operation.path, path) else { continue };
        if operation.method.name() == method {
            return Ok((operation, parameter));
        }
        other_method = Some(operation.method.name());
    }
    Err(match other_method {
        Some(name) => Refusal::new(ErrorCode::MethodNotAllowed, format!("{path} takes {name}, not {method}")),
        None => no_such(path),
    })
}

fn no_such(path: &str) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("there is no {path}; {} lists what there is", paths::OPENAPI))
}

/// The parameter of a path that has the form of a template with at most one; empty where the template has none.
fn matches<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((prefix, rest)) = template.split_once('{') else { return (template == path).then_some("") };
    let suffix = rest.split_once('}').map_or("", |(_, suffix)| suffix);
    let parameter = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
    (!parameter.is_empty() && !parameter.contains('/')).then_some(parameter)
}

fn unauthenticated() -> Refusal {
    Refusal::new(
        ErrorCode::Unauthenticated,
        "an operator's client certificate is needed; POST /v1/operators/certificate gives one for the proof of an \
         operator's key",
    )
}

/// Reads a body of JSON, within its bounds.
async fn read<T, B>(body: B) -> Result<T, Refusal>
where
    T: DeserializeOwned,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = Limited::new(body, BODY_BYTES_MAX);
    let collected = match timeout(BODY_DEADLINE, limited.collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            return Err(Refusal::new(ErrorCode::TooLarge, format!("the body is longer than {BODY_BYTES_MAX} bytes")));
        }
        Ok(Err(error)) => return Err(Refusal::new(ErrorCode::Invalid, format!("the body cannot be read: {error}"))),
        Err(_) => return Err(Refusal::new(ErrorCode::Timeout, "the body did not arrive in time")),
    };
    serde_json::from_slice(&collected).map_err(|error| {
        let mut refusal =
            Refusal::new(ErrorCode::Invalid, format!("the body is not what this endpoint takes: {error}"));
        refusal.body.field = field_of(&error.to_string());
        refusal
    })
}

/// The field that serde names in backquotes ("missing field `csr`", "unknown field `x`, expected …").
fn field_of(message: &str) -> Option<String> {
    let rest = message.split_once("field `")?.1;
    Some(rest.split_once('`')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_operations_by_method_and_path() {
        let found = |method, path| {
            find(method, path)
                .map(|(operation, parameter)| (operation.path, parameter))
                .map_err(|refusal| refusal.body.code)
        };
        assert_eq!(found("GET", "/v1/status"), Ok((paths::STATUS, "")));
        assert_eq!(found("GET", "/v1/services/kubelet/logs"), Ok((paths::SERVICE_LOGS, "kubelet")));
        assert_eq!(found("GET", "/v1/config/nodes/cluster"), Ok((paths::NODE_CONFIGURATION, "cluster")));
        assert_eq!(found("GET", "/v1/boots"), Ok((paths::BOOTS, "")));
        assert_eq!(found("GET", "/v1/boots/7"), Ok((paths::BOOT, "7")));
        assert_eq!(found("PUT", "/v1/config/cluster"), Ok((paths::CLUSTER_CONFIGURATION, "")));
        assert_eq!(found("POST", "/v1/status"), Err(ErrorCode::MethodNotAllowed));
        for path in
            ["/", "/v1", "/v1/status/", "/v1/services//logs", "/v1/services/a/b/logs", "/v2/status", "/v1/services/a"]
        {
            assert_eq!(found("GET", path), Err(ErrorCode::NotFound), "{path}");
        }
    }

    #[test]
    fn the_field_of_a_mistake_is_named() {
        let of = |text: &str| {
            let error = serde_json::from_str::<keelson_api::CertificateRequest>(text).expect_err("a mistake");
            field_of(&error.to_string())
        };
        assert_eq!(of(r#"{"csr":"a"}"#).as_deref(), Some("nonce"));
        assert_eq!(of(r#"{"crs":"a"}"#).as_deref(), Some("crs"));
        assert_eq!(of("[").as_deref(), None);
    }
}
