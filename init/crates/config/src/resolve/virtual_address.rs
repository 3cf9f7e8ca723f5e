//! The address that goes from one control plane to another.

use std::net::IpAddr;

use crate::node::Ranges;
use crate::raw::{RawAddressing, RawConfig};
use crate::resolve::check::Checker;
use crate::resolve::syntax;

const FIELD: &str = "virtualAddress";
const FORM: &str = "a free address of the nodes' network, outside the pod and service networks";

pub(super) fn parse(check: &mut Checker, raw: &RawConfig, pods: Ranges, services: Ranges) -> Option<IpAddr> {
    let said = raw.virtual_address.as_ref()?;
    let address = check.parsed(&said.source, FIELD, &said.value, FORM, |text| text.parse().ok().filter(is_usable))?;
    for (name, ranges) in [("the pod network", pods), ("the service network", services)] {
        if let Some(network) = ranges.around(address) {
            check.fault(&said.source, FIELD, format!("{address} is inside {name} {network}"), FORM);
        }
    }
    if is_configured(raw, address) {
        check.fault(&said.source, FIELD, format!("{address} is configured on a link of this node"), FORM);
    }
    Some(address)
}

/// Of one machine, and the same to everybody who asks for it.
fn is_usable(address: &IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let elsewhere = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    !special && !elsewhere
}

fn is_configured(raw: &RawConfig, address: IpAddr) -> bool {
    let of_link = |addressing: &RawAddressing| match addressing {
        RawAddressing::Static { addresses, .. } => {
            addresses.iter().filter_map(|text| syntax::interface_address(text)).any(|net| net.addr() == address)
        }
        _ => false,
    };
    raw.links.iter().flat_map(|said| &said.value).any(|link| of_link(&link.value.addressing))
}
