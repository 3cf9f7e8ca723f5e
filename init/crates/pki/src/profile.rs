//! Whom a certificate names and what it is for: the part of a certificate that is decided, never copied from a request.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use time::Duration;

use crate::validity::LEAF_LIFE;

/// Where kube-apiserver looks for `user.uid` in a client certificate's subject, below Kubernetes' registered arc. It lets
/// one identity be denied without denying a later one of the same name.
pub const UID_ATTRIBUTE: [u64; 8] = [1, 3, 6, 1, 4, 1, 57683, 2];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    /// Kubernetes reads the organization as the user's group.
    pub organization: Option<String>,
    /// The node's UID, for every identity of a node.
    pub uid: Option<String>,
}

impl Subject {
    pub fn named(common_name: impl Into<String>) -> Self {
        Self { common_name: common_name.into(), organization: None, uid: None }
    }

    #[must_use]
    pub fn organization(mut self, organization: impl Into<String>) -> Self {
        self.organization = Some(organization.into());
        self
    }

    #[must_use]
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }

    pub(crate) fn distinguished_name(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        if let Some(organization) = &self.organization {
            name.push(DnType::OrganizationName, organization.as_str());
        }
        name.push(DnType::CommonName, self.common_name.as_str());
        if let Some(uid) = &self.uid {
            name.push(DnType::CustomDnType(UID_ATTRIBUTE.to_vec()), uid.as_str());
        }
        name
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    /// Members of the store are each other's clients and servers.
    Peer,
}

impl Usage {
    pub(crate) fn extended(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Peer => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

/// The names a serving certificate answers to, in an order that does not depend on how they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: BTreeSet<String>,
    pub addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// What every serving certificate of a node answers to: whoever forwards a port to a node reaches it under these.
    pub fn loopback() -> Self {
        Self {
            dns: BTreeSet::from(["localhost".to_owned()]),
            addresses: BTreeSet::from([
                IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ]),
        }
    }

    #[must_use]
    pub fn with_dns<I: IntoIterator<Item = String>>(mut self, names: I) -> Self {
        self.dns.extend(names);
        self
    }

    #[must_use]
    pub fn with_addresses<I: IntoIterator<Item = IpAddr>>(mut self, addresses: I) -> Self {
        self.addresses.extend(addresses);
        self
    }

    /// Sorts each entry into addresses or names by what it parses as.
    #[must_use]
    pub fn with_either<I: IntoIterator<Item = String>>(mut self, entries: I) -> Self {
        for entry in entries {
            match entry.parse() {
                Ok(address) => self.addresses.insert(address),
                Err(_) => self.dns.insert(entry),
            };
        }
        self
    }

    pub(crate) fn alternative_names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let dns = self.dns.iter().map(|name| Ok(SanType::DnsName(Ia5String::try_from(name.as_str())?)));
        let addresses = self.addresses.iter().map(|address| Ok(SanType::IpAddress(*address)));
        dns.chain(addresses).collect()
    }
}

/// A certificate as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub subject: Subject,
    pub usage: Usage,
    pub names: Names,
    pub life: Duration,
}

impl Profile {
    pub fn client(subject: Subject) -> Self {
        Self { subject, usage: Usage::Client, names: Names::default(), life: LEAF_LIFE }
    }

    pub fn server(subject: Subject, names: Names) -> Self {
        Self { subject, usage: Usage::Server, names, life: LEAF_LIFE }
    }

    pub fn peer(subject: Subject, names: Names) -> Self {
        Self { subject, usage: Usage::Peer, names, life: LEAF_LIFE }
    }

    #[must_use]
    pub fn life(mut self, life: Duration) -> Self {
        self.life = life;
        self
    }

    pub(crate) fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject.distinguished_name();
        params.subject_alt_names = self.names.alternative_names()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usage.extended();
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}
