use keelson_config::{Inputs, MacAddress, Remembered, resolve};
use netlink_packet_route::link::LinkLayerType;

use super::*;
use crate::advertisements::RouterFlags;
use crate::links::Address;

const NOW: Now = Now { since_boot: Duration::from_secs(100), wall: Duration::from_millis(1_800_000_000_001) };

fn config(words: &str, document: &str) -> NodeConfig {
    let command_line = format!("keelson.role=worker {words}").into_bytes();
    let document = format!("apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\nspec: {document}\n");
    let fw_cfg = [("opt/keelson/document".to_owned(), document.into_bytes())].into();
    resolve(&Inputs { command_line, fw_cfg, ..Inputs::default() }, &Remembered::default()).unwrap().node
}

fn link(index: u32, addresses: &[&str]) -> Link {
    Link {
        index,
        name: format!("eth{index}"),
        mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        up: true,
        carrier: true,
        layer: LinkLayerType::Ether,
        kind: None,
        controller: None,
        addresses: addresses
            .iter()
            .map(|net| Address { net: net.parse().unwrap(), unusable: false, is_virtual: false })
            .collect(),
        routers: RouterFlags::default(),
    }
}

/// A plan with this gateway, as a static configuration has it.
fn plan(config: &NodeConfig, link: &Link) -> Plan {
    crate::plan::plan(&config.network, link, None).unwrap()
}

fn published(config: &NodeConfig, links: &[Link], before: &NetworkState) -> NetworkState {
    let plans: Vec<Plan> = links.iter().map(|link| plan(config, link)).collect();
    let seen: Vec<Seen<'_>> =
        links.iter().zip(&plans).map(|(link, plan)| Seen { link, plan, client: None, v6: None }).collect();
    compose(config, &seen, TimeState::default(), Vec::new(), before, NOW)
}

fn addresses(state: &NetworkState) -> Vec<String> {
    state.node_addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn the_nodes_address_is_on_the_link_with_the_default_route() {
    let config = config("ip=10.2.0.5::10.2.0.1:24::eth2:none ip=10.1.0.5:::24::eth1:none", "{}");
    let links = [link(1, &["10.1.0.5/24"]), link(2, &["10.2.0.5/24", "fe80::1/64"])];
    assert_eq!(addresses(&published(&config, &links, &NetworkState::default())), ["10.2.0.5"]);
}

#[test]
fn the_nodes_address_is_in_the_configured_subnets() {
    let config = config(
        "ip=10.2.0.5::10.2.0.1:24::eth2:none ip=10.1.0.5:::24::eth1:none",
        "{network: {nodeSubnets: [192.168.0.0/16, 10.1.0.0/16]}}",
    );
    let links = [link(1, &["10.1.0.5/24"]), link(2, &["10.2.0.5/24"])];
    assert_eq!(addresses(&published(&config, &links, &NetworkState::default())), ["10.1.0.5"]);
    assert_eq!(addresses(&published(&config, &links[1..], &NetworkState::default())), Vec::<String>::new());
}

#[test]
fn the_nodes_address_does_not_move_while_it_is_there() {
    let config = config("", "{}");
    let second = [link(2, &["10.2.0.5/24"])];
    let before = published(&config, &second, &NetworkState::default());
    let both = [link(1, &["10.1.0.5/24"]), link(2, &["10.2.0.5/24"])];
    assert_eq!(addresses(&published(&config, &both, &before)), ["10.2.0.5"]);
    assert_eq!(addresses(&published(&config, &both[..1], &before)), ["10.1.0.5"]);
}

#[test]
fn the_family_of_the_pods_comes_first_and_each_once() {
    let links = [link(1, &["10.1.0.5/24", "fd00::5/64", "fd00::6/64"])];
    assert_eq!(addresses(&published(&config("", "{}"), &links, &NetworkState::default())), ["10.1.0.5", "fd00::5"]);
    let v6 = config("", "{cluster: {podCIDR: 'fd01::/56', serviceCIDR: 'fd02::/112'}}");
    assert_eq!(addresses(&published(&v6, &links, &NetworkState::default())), ["fd00::5", "10.1.0.5"]);
}

#[test]
fn the_clusters_address_is_not_the_nodes() {
    let mut link = link(1, &["10.1.0.100/32", "10.1.0.5/24"]);
    link.addresses[0].is_virtual = true;
    assert_eq!(addresses(&published(&config("", "{}"), &[link], &NetworkState::default())), ["10.1.0.5"]);
}

#[test]
fn an_address_that_cannot_be_used_is_not_the_nodes() {
    let mut link = link(1, &["10.1.0.5/24", "169.254.3.4/16", "fe80::1/64"]);
    link.addresses[0].unusable = true;
    assert_eq!(addresses(&published(&config("", "{}"), &[link], &NetworkState::default())), Vec::<String>::new());
}

#[test]
fn configured_resolvers_go_before_those_of_links() {
    let config = config("ip=10.1.0.5:::24::eth1:none:10.1.0.3 nameserver=10.9.9.9", "{network: {search: [a.example]}}");
    let state = published(&config, &[link(1, &["10.1.0.5/24"])], &NetworkState::default());
    assert_eq!(state.nameservers, ["10.9.9.9", "10.1.0.3"].map(|text| text.parse::<IpAddr>().unwrap()));
    assert_eq!(state.search, ["a.example"]);
}

#[test]
fn a_leases_times_do_not_flicker() {
    let lease = Lease {
        server: [10, 1, 0, 1].into(),
        address: "10.1.0.5/24".parse().unwrap(),
        routes: Vec::new(),
        nameservers: Vec::new(),
        search: Vec::new(),
        ntp_servers: Vec::new(),
        mtu: None,
        hostname: None,
        obtained: Duration::from_secs(90),
        duration: Some(Duration::from_mins(10)),
        renew_after: Duration::from_mins(5),
        rebind_after: Duration::from_secs(500),
    };
    let first = lease_state(&lease, "BOUND", NOW, None);
    assert_eq!((first.obtained, first.expires), (1_799_999_990, Some(1_800_000_590)));
    let later = Now { since_boot: Duration::from_secs(150), wall: Duration::from_millis(1_800_000_050_900) };
    assert_eq!(lease_state(&lease, "BOUND", later, Some(&first)), first);
    let stepped = Now { since_boot: Duration::from_secs(150), wall: Duration::from_secs(1_900_000_050) };
    assert_ne!(lease_state(&lease, "BOUND", stepped, Some(&first)), first, "the clock was set");
}
