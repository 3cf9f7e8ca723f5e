//! The networks of pods and of Services.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One range, or one of each family: dual stack. Nodes, Services and pods are known by their addresses of the first one's
/// family. Written as Kubernetes' flags have it, with a comma between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges {
    first: IpNet,
    second: Option<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    #[error("{0:?} is no range")]
    Form(String),
    #[error("{0} and {1} are of the same family")]
    SameFamily(IpNet, IpNet),
    #[error("there are more than two ranges")]
    TooMany,
}

/// The address with this number in the range.
pub(crate) fn host(range: IpNet, number: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) | number).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) | u128::from(number)).into()),
    }
}

impl Ranges {
    /// Those two; in dual stack each is of another family.
    pub fn new(first: IpNet, second: Option<IpNet>) -> Result<Self, RangesError> {
        match second {
            Some(second) if is_ipv4(second) == is_ipv4(first) => Err(RangesError::SameFamily(first, second)),
            second => Ok(Self { first, second }),
        }
    }

    pub fn first(&self) -> IpNet {
        self.first
    }

    pub fn second(&self) -> Option<IpNet> {
        self.second
    }

    /// In their order.
    pub fn all(&self) -> impl Iterator<Item = IpNet> + use<> {
        std::iter::once(self.first).chain(self.second)
    }

    pub fn is_dual(&self) -> bool {
        self.second.is_some()
    }

    /// Whether the first range's family is that of the address.
    pub fn begins_with_family_of(&self, address: IpAddr) -> bool {
        is_ipv4(self.first) == address.is_ipv4()
    }

    /// Whether the others are of the same families, in the same order.
    pub fn has_families_of(&self, others: &Self) -> bool {
        self.all().map(is_ipv4).eq(others.all().map(is_ipv4))
    }

    /// The range that has the address.
    pub fn around(&self, address: IpAddr) -> Option<IpNet> {
        self.all().find(|range| range.contains(&address))
    }
}

fn is_ipv4(range: IpNet) -> bool {
    range.addr().is_ipv4()
}

impl From<IpNet> for Ranges {
    fn from(range: IpNet) -> Self {
        Self { first: range, second: None }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.second {
            Some(second) => write!(f, "{},{second}", self.first),
            None => self.first.fmt(f),
        }
    }
}

impl FromStr for Ranges {
    type Err = RangesError;

    fn from_str(text: &str) -> Result<Self, RangesError> {
        let parsed = |part: &str| part.trim().parse::<IpNet>().map_err(|_| RangesError::Form(part.trim().to_owned()));
        match text.split(',').collect::<Vec<_>>().as_slice() {
            [first] => Ok(parsed(first)?.into()),
            [first, second] => Self::new(parsed(first)?, Some(parsed(second)?)),
            _ => Err(RangesError::TooMany),
        }
    }
}

impl TryFrom<String> for Ranges {
    type Error = RangesError;

    fn try_from(text: String) -> Result<Self, RangesError> {
        text.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> Self {
        ranges.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_and_one_of_each_family_are_read_as_they_are_written() {
        for text in ["10.244.0.0/16", "fd00::/48", "10.244.0.0/16,fd00::/48", "fd00::/48,10.244.0.0/16"] {
            let ranges: Ranges = text.parse().unwrap();
            assert_eq!(ranges.to_string(), text);
            assert_eq!(ranges.is_dual(), text.contains(','));
            let json = serde_json::to_string(&ranges).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Ranges>(&json).unwrap(), ranges);
        }
    }

    #[test]
    fn what_is_neither_says_why() {
        let fault = |text: &str| text.parse::<Ranges>().unwrap_err().to_string();
        assert_eq!(fault("10.1.0.0/16,10.2.0.0/16"), "10.1.0.0/16 and 10.2.0.0/16 are of the same family");
        assert_eq!(fault("10.1.0.0/16,fd00::/48,fd01::/48"), "there are more than two ranges");
        assert_eq!(fault("10.1.0.0/16,"), "\"\" is no range");
        assert_eq!(fault("10.1.0.0"), "\"10.1.0.0\" is no range");
    }

    #[test]
    fn the_order_of_the_families_counts() {
        let of = |text: &str| text.parse::<Ranges>().unwrap();
        let (v4, v6) = (of("10.1.0.0/16,fd00::/48"), of("fd00::/48,10.1.0.0/16"));
        assert!(!v4.has_families_of(&v6) && v4.has_families_of(&of("10.2.0.0/16,fd01::/112")));
        assert!(!v4.has_families_of(&of("10.2.0.0/16")));
        let address = "fd00::7".parse().unwrap();
        assert!(v6.begins_with_family_of(address) && !v4.begins_with_family_of(address));
        assert_eq!(v4.around(address), Some("fd00::/48".parse().unwrap()));
        assert_eq!(of("10.1.0.0/16").around(address), None);
    }
}
