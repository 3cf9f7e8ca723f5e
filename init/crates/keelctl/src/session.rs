//! An operator's session with a node: requests that carry a certificate, which is obtained when it is needed.
//!
//! The cached certificate is used while it lasts. When the node refuses it (it was switched off for a day, its authority
//! was made anew, its clock was set), one new certificate is asked for and the request is made once more. What a worker cannot answer is asked
//! of a control plane, through that worker.

use std::{path::PathBuf, rc::Rc};

use bytes::Bytes;
use hyper::{Method, Response, body::Incoming};
use keelson_api::{Certificate, CertificateRequest, Challenge, ErrorBody, paths, proof};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use crate::{
    client::{self, Answer, Client, ClientError, Via},
    config::{Config, Context},
    credential::{Credential, CredentialError, Request},
    error::Error,
    key::OperatorKey,
    output, private_file,
};

pub(crate) struct Session {
    pub context: Context,
    client: Client,
    cache: PathBuf,
    credential: Option<Rc<Credential>>,
    /// Whether the credential was made by this process and has not been accepted yet, so that a refusal is final.
    fresh: bool,
    /// The file that the context is from.
    config: PathBuf,
}

impl Session {
    /// For the context of that name, or the current one. Nothing is sent yet.
    pub(crate) fn new(config: &Config, name: Option<&str>) -> Result<Self, Error> {
        let context = config.context(name)?;
        let cache = config.certificate(&context.name);
        let credential = Credential::cached(&cache, &context.fingerprint, OffsetDateTime::now_utc()).map(Rc::new);
        let client = Client::new(&context).map_err(|source| client_error(&context, source))?;
        Ok(Self { context, client, cache, credential, fresh: false, config: config.path().to_owned() })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B) -> Result<T, Error> {
        let body = client::encode(body).map_err(|source| client_error(&self.context, source))?;
        self.json(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B) -> Result<T, Error> {
        let body = client::encode(body).map_err(|source| client_error(&self.context, source))?;
        self.json(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        self.json(Method::DELETE, path, None).await
    }

    /// An answer that is read while it comes.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Response<Incoming>, Error> {
        let mut via = Via::Node;
        loop {
            let credential = self.credential().await?;
            let answer = self.client.stream(via, Method::GET, path, None, Some(&credential)).await;
            if let Some(outcome) = self.settle(&Method::GET, &mut via, answer)? {
                return Ok(outcome);
            }
        }
    }

    async fn json<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Option<Bytes>) -> Result<T, Error> {
        let mut via = Via::Node;
        loop {
            let credential = self.credential().await?;
            let answer = self.client.call(via, method.clone(), path, body.clone(), Some(&credential)).await;
            if let Some(outcome) = self.settle(&method, &mut via, answer)? {
                return Ok(outcome);
            }
        }
    }

    /// The answer, or nothing when the request is to be made once more: of a control plane, or with a new certificate.
    fn settle<T>(
        &mut self,
        method: &Method,
        via: &mut Via,
        answer: Result<Answer<T>, ClientError>,
    ) -> Result<Option<T>, Error> {
        if passes_on(*via, &answer) {
            *via = Via::ControlPlane;
            return Ok(None);
        }
        let renew = !self.fresh
            && match &answer {
                Ok(Err(refusal)) => client::is_unauthenticated(refusal),
                Err(error) if error.is_certificate_refusal() => true,
                // The node's close may overtake its alert. An order is not given twice because its answer was lost.
                Err(error) => *method == Method::GET && error.is_broken_connection(),
                Ok(Ok(_)) => false,
            };
        if renew {
            self.credential = None;
            return Ok(None);
        }
        match answer {
            Ok(Ok(value)) => {
                self.fresh = false;
                self.learn();
                Ok(Some(value))
            }
            Ok(Err(body)) => Err(self.refused(body)),
            Err(source) => Err(client_error(&self.context, source)),
        }
    }

    /// The cluster may have told by what it will be known, and is known by that from some moment on. What was asked has its answer, whether
    /// or not that can be written down.
    fn learn(&mut self) {
        let learned = self.client.learned();
        if !self.context.learn(&learned) {
            return;
        }
        self.client.set_context(self.context.clone());
        let written = Config::read(Some(self.config.clone())).and_then(|mut config| {
            if config.learn(&self.context.name, &learned) { config.write().map(|()| true) } else { Ok(false) }
        });
        match written {
            Ok(false) => {}
            Ok(true) => {
                output::note(
                    "the cluster's authorities are being exchanged: this context knows it by the new one, too",
                );
            }
            Err(error) => output::note(&format!("the context cannot be given the cluster's new authority: {error}")),
        }
    }

    async fn credential(&mut self) -> Result<Rc<Credential>, Error> {
        if let Some(credential) = &self.credential {
            return Ok(Rc::clone(credential));
        }
        self.fresh = true;
        let credential = Rc::new(self.obtain().await?);
        self.credential = Some(Rc::clone(&credential));
        Ok(credential)
    }

    /// Proves the operator's key and keeps what it yields.
    async fn obtain(&self) -> Result<Credential, Error> {
        let key = OperatorKey::read(&self.context.key)?;
        let request = Request::new().map_err(|source| self.credential_error(source))?;
        let mut via = Via::Node;
        let challenge: Challenge = self.ask(&mut via, Method::GET, paths::CHALLENGE, None).await?;
        // Of the two by which the cluster may be known, the one that it shows now.
        let known = self.client.learned().shown.unwrap_or_else(|| self.context.fingerprint.clone());
        let message = proof::message(&known.hexadecimal(), &challenge.nonce, &request.csr);
        let body = CertificateRequest {
            csr: request.csr.clone(),
            nonce: challenge.nonce,
            operator_key: key.public(),
            signature: key.sign(&message)?,
        };
        let body = client::encode(&body).map_err(|source| client_error(&self.context, source))?;
        let answer: Certificate = self.ask(&mut via, Method::POST, paths::OPERATOR_CERTIFICATE, Some(body)).await?;
        let file = request.to_file(&answer.certificate, &self.context.fingerprint);
        let credential = Credential::from_file(&file, &self.context.fingerprint)
            .ok_or_else(|| self.credential_error(CredentialError::Malformed))?;
        private_file::replace(&self.cache, &file).map_err(|source| self.credential_error(source.into()))?;
        Ok(credential)
    }

    /// A request without a certificate. Who has answered one answers the next: a proof is made for one node.
    async fn ask<T: DeserializeOwned>(
        &self,
        via: &mut Via,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, Error> {
        let mut answer = self.client.call(*via, method.clone(), path, body.clone(), None).await;
        if passes_on(*via, &answer) {
            *via = Via::ControlPlane;
            answer = self.client.call(*via, method, path, body, None).await;
        }
        match answer {
            Ok(answer) => answer.map_err(|body| self.refused(body)),
            Err(source) => Err(client_error(&self.context, source)),
        }
    }

    fn refused(&self, body: ErrorBody) -> Error {
        Error::Answer { endpoint: self.context.endpoint.to_string(), body }
    }

    fn credential_error(&self, source: CredentialError) -> Error {
        Error::Credential { context: self.context.name.clone(), source }
    }
}

fn passes_on<T>(via: Via, answer: &Result<Answer<T>, ClientError>) -> bool {
    via == Via::Node && matches!(answer, Ok(Err(refusal)) if client::is_for_control_planes(refusal))
}

fn client_error(context: &Context, source: ClientError) -> Error {
    Error::Client { endpoint: context.endpoint.to_string(), source }
}
