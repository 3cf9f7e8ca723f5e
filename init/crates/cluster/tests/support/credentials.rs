//! From an operator's key to a certificate, and every way in which that must fail.

use base64::{Engine, prelude::BASE64_STANDARD};
use keelson_api::{CertificateRequest, OPERATORS, paths, proof};
use keelson_cluster::api_server::limiter;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    caller::{Answer, Identity, ask, ask_locally},
    fixture::{Fixture, OPERATOR},
};

/// An operator with a key.
pub(crate) struct Operator {
    key: KeyPair,
    pub(crate) public: String,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let public = BASE64_STANDARD.encode(key.subject_public_key_info());
        Self { key, public }
    }

    async fn nonce(fixture: &Fixture) -> String {
        let answer = ask(fixture, None, "GET", paths::CHALLENGE, "").await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["nonce"].as_str().expect("a nonce").to_owned()
    }

    fn sign(&self, message: &[u8]) -> String {
        BASE64_STANDARD.encode(self.key.sign(message).expect("a signature"))
    }

    /// A request as keelctl makes it.
    pub(crate) async fn request(&self, fixture: &Fixture, csr: &str) -> CertificateRequest {
        let nonce = Self::nonce(fixture).await;
        let fingerprint = fixture.fingerprint();
        let digits = fingerprint.strip_prefix("sha256:").expect("the kind of the fingerprint");
        let signature = self.sign(&proof::message(digits, &nonce, csr));
        CertificateRequest { csr: csr.to_owned(), nonce, operator_key: self.public.clone(), signature }
    }
}

/// A key with a request that asks for more than an operator may have.
pub(crate) fn greedy_request() -> (KeyPair, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["kubernetes.default".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, "system:admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // A request cannot ask for these; what it can ask for are the names.
    params.is_ca = rcgen::IsCa::NoCa;
    let csr = params.serialize_request(&key).expect("a request").pem().expect("text");
    (key, csr)
}

pub(crate) async fn post(fixture: &Fixture, request: &CertificateRequest) -> Answer {
    let body = serde_json::to_string(request).expect("JSON");
    ask(fixture, None, "POST", paths::OPERATOR_CERTIFICATE, &body).await.expect("an answer")
}

fn names(pem: &str) -> (Vec<String>, Vec<String>, bool) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    let subject = certificate.subject();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().expect("text").to_owned();
    let alternative = certificate.subject_alternative_name().expect("extensions").is_some();
    (
        subject.iter_common_name().map(text).collect(),
        subject.iter_organization().map(text).collect(),
        alternative || certificate.is_ca(),
    )
}

pub(crate) fn identity(certificate: &str, key: &KeyPair) -> Identity {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
    (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
}

#[tokio::test]
async fn a_proven_key_yields_a_certificate_that_opens_the_api_and_kubernetes() {
    let operator = Operator::new();
    let fixture = Fixture::start(&operator.public);
    let (key, csr) = greedy_request();
    let answer = post(&fixture, &operator.request(&fixture, &csr).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let certificate = answer.json()["certificate"].as_str().expect("a certificate").to_owned();
    let own = (vec![OPERATOR.to_owned()], vec![OPERATORS.to_owned()], false);
    assert_eq!(names(&certificate), own, "names come from the configuration");
    assert_eq!(answer.json()["operator"], OPERATOR);

    let status = ask(&fixture, Some(identity(&certificate, &key)), "GET", paths::STATUS, "").await.expect("an answer");
    assert_eq!(status.status, 200);

    let body = json!({ "csr": csr }).to_string();
    let answer = ask(&fixture, Some(identity(&certificate, &key)), "POST", paths::KUBECONFIG, &body).await;
    let answer = answer.expect("an answer").json();
    assert_eq!(names(answer["certificate"].as_str().expect("a certificate")), own);
    assert_eq!(answer["server"], "https://192.0.2.10:6443");
    let mut cluster = (*fixture.node.cluster()).clone();
    cluster.virtual_address = Some("2001:db8::10".parse().expect("an address"));
    fixture.node.set_cluster(cluster);
    let through = ask(&fixture, Some(identity(&certificate, &key)), "POST", paths::KUBECONFIG, &body).await;
    assert_eq!(through.expect("an answer").json()["server"], "https://[2001:db8::10]:6443", "the one that stays");
    assert!(answer["cluster"].as_str().is_some_and(|name| name.starts_with("keelson-")));
    assert!(answer["certificateAuthority"].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")));
}

#[tokio::test]
async fn a_proof_is_good_once() {
    let operator = Operator::new();
    let fixture = Fixture::start(&operator.public);
    let request = operator.request(&fixture, &greedy_request().1).await;
    assert_eq!(post(&fixture, &request).await.status, 200);
    let again = post(&fixture, &request).await;
    assert_eq!((again.status, again.refusal()), (401, ("unauthenticated".to_owned(), "nonce".to_owned())));
}

#[tokio::test]
async fn what_is_not_proven_is_refused() {
    let (operator, other) = (Operator::new(), Operator::new());
    let fixture = Fixture::start(&operator.public);
    let (_, csr) = greedy_request();
    let genuine = operator.request(&fixture, &csr).await;
    let changed = |change: &dyn Fn(&mut CertificateRequest)| {
        let mut request = genuine.clone();
        change(&mut request);
        request
    };
    let digits = "00".repeat(32);
    let elsewhere = operator.sign(&proof::message(&digits, &genuine.nonce, &csr));
    let refused = [
        ("a key that is not in the configuration", 401, "", other.request(&fixture, &csr).await),
        ("another's signature", 401, "", changed(&|r| r.signature = other.sign(b"nothing"))),
        ("a request of another key", 401, "", changed(&|r| r.csr = greedy_request().1)),
        ("a proof for another cluster", 401, "", changed(&|r| r.signature = elsewhere.clone())),
        ("a nonce of nobody", 401, "nonce", changed(&|r| r.nonce = BASE64_STANDARD.encode([7; 56]))),
        ("no nonce", 401, "nonce", changed(&|r| r.nonce.clear())),
        ("no signature", 401, "", changed(&|r| r.signature.clear())),
        ("a signature in another form", 400, "signature", changed(&|r| r.signature = "*".to_owned())),
        ("no key", 401, "", changed(&|r| r.operator_key.clear())),
    ];
    for (what, status, field, request) in refused {
        let answer = post(&fixture, &request).await;
        assert_eq!((answer.status, answer.refusal().1.as_str()), (status, field), "{what}: {}", answer.text);
    }
    // None of it has used up the nonce of the genuine one.
    assert_eq!(post(&fixture, &genuine).await.status, 200);
}

#[tokio::test]
async fn a_malformed_request_is_refused_by_field() {
    let operator = Operator::new();
    let fixture = Fixture::start(&operator.public);
    for csr in ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let answer = post(&fixture, &operator.request(&fixture, csr).await).await;
        assert_eq!((answer.status, answer.refusal()), (400, ("invalid".to_owned(), "csr".to_owned())), "{csr:?}");
    }
    let bodies = [("{}", "csr"), (r#"{"csr":"a","extra":1}"#, "extra"), ("[]", ""), ("", "")];
    for (body, field) in bodies {
        let answer = ask(&fixture, None, "POST", paths::OPERATOR_CERTIFICATE, body).await.expect("an answer");
        assert_eq!((answer.status, answer.refusal().1.as_str()), (400, field), "{body}: {}", answer.text);
    }
    let large = format!(r#"{{"csr":"{}"}}"#, "x".repeat(100_000));
    let answer = ask(&fixture, None, "POST", paths::OPERATOR_CERTIFICATE, &large).await.expect("an answer");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (413, "tooLarge"));
}

#[tokio::test]
async fn strangers_who_try_too_often_are_told_to_wait_and_root_is_not() {
    let operator = Operator::new();
    let fixture = Fixture::start(&operator.public);
    let mut granted = 0;
    let refused = loop {
        let answer = ask(&fixture, None, "GET", paths::CHALLENGE, "").await.expect("an answer");
        if answer.status != 200 {
            break answer;
        }
        granted += 1;
        assert!(granted < 10 * limiter::BURST, "there is no limit");
    };
    assert!(granted >= limiter::BURST, "only {granted} were granted");
    assert_eq!((refused.status, refused.refusal().0.as_str()), (429, "tooManyRequests"));
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=5).contains(&wait), "{wait} s");
    assert_eq!(ask_locally(&fixture.socket, "GET", paths::CHALLENGE, "").await.status, 200);
}
