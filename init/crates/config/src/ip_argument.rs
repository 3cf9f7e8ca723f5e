//! `ip=`, `vlan=`, `bond=` and `rd.route=` in the kernel's syntax (Documentation/admin-guide/nfs/nfsroot.rst) and dracut's
//! (dracut.cmdline(7)). What parses here is text still; the validation judges addresses and names.

use crate::error::shown;
use crate::raw::{RawAddressing, RawBond, RawLink, RawRoute, RawVlan};

/// What is wrong with a word, and what would be right.
pub(crate) type Fault = (String, &'static str);

pub(crate) const IP_FORMS: &str = "dhcp, off, DEVICE:dhcp[:MTU], DEVICE:off, or \
    ADDRESS:[PEER]:[GATEWAY]:NETMASK:[HOSTNAME]:[DEVICE]:none[:DNS[:DNS[:NTP]]] or …:none:MTU, \
    with IPv6 addresses in brackets";
pub(crate) const VLAN_FORMS: &str = "NAME:PARENT, the name ending in the id, as in eth0.5 or vlan5";
pub(crate) const ROUTE_FORMS: &str = "NETWORK/LENGTH:GATEWAY[:DEVICE], with IPv6 addresses in brackets";
pub(crate) const BOND_FORMS: &str = "NAME:MEMBER,MEMBER[:OPTION=VALUE,…[:MTU]]";

/// The kernel's and dracut's words for a method; `None` if it is no such word.
fn method(word: &str) -> Option<RawAddressing> {
    match word {
        "dhcp" | "on" | "any" | "dhcp4" => Some(RawAddressing::Dhcp),
        "off" | "none" | "static" => Some(RawAddressing::Off),
        "bootp" | "rarp" | "both" | "dhcp6" | "auto6" | "either6" | "link6" | "link-local" | "ibft" | "auto" => {
            Some(RawAddressing::Unsupported(word.to_owned()))
        }
        _ => None,
    }
}

/// Splits at colons outside brackets; the brackets are dropped.
fn fields(value: &str) -> Result<Vec<String>, Fault> {
    let mut fields = vec![String::new()];
    let mut in_brackets = false;
    for character in value.chars() {
        match character {
            '[' if !in_brackets => in_brackets = true,
            ']' if in_brackets => in_brackets = false,
            ':' if !in_brackets => fields.push(String::new()),
            other => {
                if let Some(field) = fields.last_mut() {
                    field.push(other);
                }
            }
        }
    }
    if in_brackets { Err((format!("{} has an open bracket", shown(value)), IP_FORMS)) } else { Ok(fields) }
}

/// The value of one `ip=`.
pub(crate) fn ip(value: &str) -> Result<RawLink, Fault> {
    let fields = fields(value)?;
    let field = |index: usize| fields.get(index).map_or("", String::as_str);
    if fields.len() == 1 {
        let addressing = method(field(0)).ok_or_else(|| (format!("{} is not a method", shown(value)), IP_FORMS))?;
        return Ok(RawLink { addressing, ..RawLink::default() });
    }
    if !field(0).is_empty()
        && let Some(addressing) = method(field(1))
    {
        return device_form(value, &fields, addressing);
    }
    full_form(value, &fields)
}

/// `DEVICE:METHOD[:[MTU][:MAC]]`
fn device_form(value: &str, fields: &[String], addressing: RawAddressing) -> Result<RawLink, Fault> {
    let field = |index: usize| fields.get(index).map_or("", String::as_str);
    refuse_rest(value, fields, 3)?;
    let mtu = Some(field(2)).filter(|mtu| !mtu.is_empty()).map(str::to_owned);
    Ok(RawLink { link: field(0).to_owned(), addressing, mtu, ..RawLink::default() })
}

/// `ADDRESS:PEER:GATEWAY:NETMASK:HOSTNAME:DEVICE:METHOD` and what kernel or dracut append.
fn full_form(value: &str, fields: &[String]) -> Result<RawLink, Fault> {
    let field = |index: usize| fields.get(index).map_or("", String::as_str);
    let given = |index: usize| Some(field(index)).filter(|text| !text.is_empty()).map(str::to_owned);
    if fields.len() < 4 {
        return Err((format!("{} has {} of the at least 4 fields", shown(value), fields.len()), IP_FORMS));
    }
    let said = match field(6) {
        "" => None,
        word => Some(method(word).ok_or_else(|| (format!("{} is not a method", shown(word)), IP_FORMS))?),
    };
    let addressing = match (given(0), said) {
        (None, None | Some(RawAddressing::Dhcp)) => RawAddressing::Dhcp,
        (None, Some(other)) => other,
        (Some(address), None | Some(RawAddressing::Off)) => {
            let addresses = vec![with_netmask(&address, field(3))?];
            RawAddressing::Static { addresses, gateway: given(2) }
        }
        (Some(address), Some(_)) => {
            return Err((
                format!("the address {} is given together with {}", shown(&address), shown(field(6))),
                IP_FORMS,
            ));
        }
    };
    let mut link = RawLink { link: field(5).to_owned(), addressing, hostname: given(4), ..RawLink::default() };
    if is_number(field(7)) {
        refuse_rest(value, fields, 8)?;
        link.mtu = given(7);
    } else {
        refuse_rest(value, fields, 10)?;
        link.nameservers = [given(7), given(8)].into_iter().flatten().collect();
        link.ntp = given(9).into_iter().collect();
    }
    Ok(link)
}

fn with_netmask(address: &str, netmask: &str) -> Result<String, Fault> {
    match (address.contains('/'), netmask.is_empty()) {
        (true, true) => Ok(address.to_owned()),
        (false, false) => Ok(format!("{address}/{netmask}")),
        // The kernel would guess by address class, which has meant nothing since 1993.
        (false, true) => Err((format!("{} has no netmask", shown(address)), IP_FORMS)),
        (true, false) => Err((format!("{} has a prefix length and a netmask", shown(address)), IP_FORMS)),
    }
}

/// Everything from field `allowed` on must be empty. dracut's setting of a MAC address is not offered.
fn refuse_rest(value: &str, fields: &[String], allowed: usize) -> Result<(), Fault> {
    match fields.iter().skip(allowed).find(|field| !field.is_empty()) {
        None => Ok(()),
        Some(extra) => Err((format!("{} in {} is one field too many", shown(extra), shown(value)), IP_FORMS)),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The value of one `vlan=`.
pub(crate) fn vlan(value: &str) -> Result<RawVlan, Fault> {
    match value.split_once(':') {
        Some((name, parent)) if !name.is_empty() && !parent.is_empty() && !parent.contains(':') => {
            Ok(RawVlan { name: name.to_owned(), parent: parent.to_owned(), id: String::new() })
        }
        _ => Err((format!("{} is not a VLAN", shown(value)), VLAN_FORMS)),
    }
}

/// The value of one `rd.route=`.
pub(crate) fn route(value: &str) -> Result<RawRoute, Fault> {
    match fields(value)?.as_slice() {
        [to, via] => Ok(RawRoute { to: to.clone(), via: via.clone(), ..RawRoute::default() }),
        [to, via, link] => Ok(RawRoute { to: to.clone(), via: via.clone(), link: link.clone(), ..RawRoute::default() }),
        _ => Err((format!("{} is not a route", shown(value)), ROUTE_FORMS)),
    }
}

/// The value of one `bond=`.
pub(crate) fn bond(value: &str) -> Result<RawBond, Fault> {
    let mut fields = value.split(':');
    let fault = || (format!("{} is not a bond", shown(value)), BOND_FORMS);
    let name = fields.next().unwrap_or_default();
    let members: Vec<String> =
        fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let mut options = Vec::new();
    for option in fields.next().unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        let (key, setting) = option.split_once('=').ok_or_else(fault)?;
        options.push((key.to_owned(), setting.to_owned()));
    }
    let mtu = fields.next().filter(|mtu| !mtu.is_empty()).map(str::to_owned);
    if name.is_empty() || members.is_empty() || fields.next().is_some() {
        return Err(fault());
    }
    Ok(RawBond { name: name.to_owned(), members, options, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(addresses: &[&str], gateway: Option<&str>) -> RawAddressing {
        RawAddressing::Static {
            addresses: addresses.iter().map(|&text| text.to_owned()).collect(),
            gateway: gateway.map(str::to_owned),
        }
    }

    #[test]
    fn reads_methods_and_devices() {
        assert_eq!(ip("dhcp").unwrap(), RawLink::default());
        assert_eq!(ip("off").unwrap().addressing, RawAddressing::Off);
        let link = ip("eth0:dhcp:1400").unwrap();
        assert_eq!((link.link.as_str(), link.mtu.as_deref()), ("eth0", Some("1400")));
        assert_eq!(ip("auto6").unwrap().addressing, RawAddressing::Unsupported("auto6".into()));
    }

    #[test]
    fn reads_the_kernels_full_form() {
        let link = ip("10.0.0.5::10.0.0.1:255.255.255.0:node1:eth0:none:10.0.0.2:10.0.0.3:10.0.0.4").unwrap();
        assert_eq!(link.addressing, addresses(&["10.0.0.5/255.255.255.0"], Some("10.0.0.1")));
        assert_eq!(link.hostname.as_deref(), Some("node1"));
        assert_eq!(link.link, "eth0");
        assert_eq!(link.nameservers, ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(link.ntp, ["10.0.0.4"]);
        assert_eq!(ip("::::node1:eth0:dhcp").unwrap().addressing, RawAddressing::Dhcp);
        assert_eq!(ip("10.0.0.5:::24").unwrap().addressing, addresses(&["10.0.0.5/24"], None));
    }

    #[test]
    fn reads_dracuts_full_form() {
        let link = ip("[fd00::5]::[fd00::1]:64::eth0:none:9000").unwrap();
        assert_eq!(link.addressing, addresses(&["fd00::5/64"], Some("fd00::1")));
        assert_eq!(link.mtu.as_deref(), Some("9000"));
    }

    #[test]
    fn refuses_what_means_nothing() {
        for value in [
            "",
            "eth0",
            "10.0.0.5",
            "10.0.0.5:::",
            "10.0.0.5:::255.0.0.0:::dhcp",
            "eth0:dhcp:1400:52:54:00:12:34:56",
            "[fd00::5",
            "1:2:3",
            "10.0.0.5:::24:::wrong",
            "10.0.0.5:::24:::none:1.1.1.1:1.1.1.2:1.1.1.3:more",
            "10.0.0.5/24:::24",
        ] {
            assert!(ip(value).is_err(), "{value:?} was accepted");
        }
    }

    #[test]
    fn reads_routes() {
        let by_link = route("10.8.0.0/255.255.0.0:10.0.0.9:eth1").unwrap();
        assert_eq!(
            (by_link.to.as_str(), by_link.via.as_str(), by_link.link.as_str()),
            ("10.8.0.0/255.255.0.0", "10.0.0.9", "eth1")
        );
        let v6 = route("[fd08::/32]:[fd00::9]").unwrap();
        assert_eq!((v6.to.as_str(), v6.via.as_str(), v6.link.as_str()), ("fd08::/32", "fd00::9", ""));
        for value in ["10.8.0.0/16", "10.8.0.0/16:10.0.0.9:eth1:5", "fd08::/32:fd00::9"] {
            assert!(route(value).is_err(), "{value:?} was accepted");
        }
    }

    #[test]
    fn reads_vlans_and_bonds() {
        assert_eq!(vlan("eth0.5:eth0").unwrap().parent, "eth0");
        assert!(vlan("eth0.5").is_err());
        let bond = bond("bond0:eth0,eth1:mode=802.3ad,miimon=100:9000").unwrap();
        assert_eq!(bond.members, ["eth0", "eth1"]);
        assert_eq!(bond.options, [("mode".into(), "802.3ad".into()), ("miimon".into(), "100".into())]);
        assert_eq!(bond.mtu.as_deref(), Some("9000"));
        for value in ["bond0", "bond0:", ":eth0", "bond0:eth0:mode", "bond0:eth0:::x"] {
            assert!(super::bond(value).is_err(), "{value:?} was accepted");
        }
    }
}
