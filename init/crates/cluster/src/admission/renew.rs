//! A member gets new certificates, for the proof of its key.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_api::join::renewal_message;
use keelson_api::{RenewRequest, Renewed};
use keelson_pki::request_key;

use super::{Admission, AdmissionError, key_text};
use crate::registry::NodeRecord;

impl Admission<'_> {
    /// The nonce was looked at by the caller, and is used up if this succeeds.
    pub async fn renew(&self, request: &RenewRequest, peer: IpAddr) -> Result<Renewed, AdmissionError> {
        for attempt in 0..super::ATTEMPTS {
            let record = self.member(&request.name, &request.node_uid).await?;
            self.check_proof(&record, request)?;
            let stored = self.registry.get::<NodeRecord>(&request.name).await?;
            let stored = stored.filter(|stored| stored.value.uid == record.uid).ok_or(AdmissionError::NoMember)?;
            if let Some(record) = self.readdress(&stored, peer.to_canonical(), &request.addresses).await? {
                return Ok(Renewed {
                    certificates: self.certify(&record, &request.requests)?,
                    settings: self.settings(&record).await?,
                });
            }
            super::pause(attempt).await?;
        }
        Err(AdmissionError::Contended)
    }

    /// The signature is by the key of the record, and so is the request for the node's own certificate: the key stays.
    fn check_proof(&self, record: &NodeRecord, request: &RenewRequest) -> Result<(), AdmissionError> {
        let key = record.key.as_deref().ok_or(AdmissionError::NoProof)?;
        let requested = request_key(&request.requests.node)
            .map_err(|source| AdmissionError::Request { identity: "requests.node", source })?;
        if key_text(&requested) != key {
            return Err(AdmissionError::NoProof);
        }
        let signature = STANDARD.decode(&request.signature).map_err(|_| AdmissionError::NoProof)?;
        let RenewRequest { name, node_uid, nonce, requests, .. } = request;
        let message = |fingerprint: &str| renewal_message(fingerprint, name, node_uid, nonce, requests);
        if self.trust.is_proven(requested, &signature, message) { Ok(()) } else { Err(AdmissionError::NoProof) }
    }
}
