//! Properties that hold for every value of a form, beside the mutations that hold for every byte.
#![forbid(unsafe_code)]
#![cfg(test)]

use keelson_config::{AddressMethod, Inputs, MacAddress, Remembered, command_line, redact, resolve};
use proptest::prelude::*;

fn worker(words: &str) -> Inputs {
    Inputs { command_line: format!("keelson.role=worker {words}").into_bytes(), ..Inputs::default() }
}

proptest! {
    #[test]
    fn a_quoted_value_comes_back_as_it_was(value in "[ -!#-~]{0,40}") {
        let line = format!("a=1 key=\"{value}\" b=2");
        let words = command_line::words(line.as_bytes());
        prop_assert_eq!(words.len(), 3);
        prop_assert_eq!(words[1].value, Some(value.as_bytes()));
    }

    #[test]
    fn redaction_takes_the_token_and_leaves_the_rest(token in "[!#-~]{1,60}", other in "[a-z]{1,20}") {
        let line = format!("x={other} keelson.token={token} y={other}");
        prop_assert_eq!(redact(line.as_bytes()), format!("x={other} keelson.token=[redacted] y={other}"));
    }

    #[test]
    fn a_static_address_is_what_was_written(a in 1u8..=223, b: u8, c: u8, d in 1u8..=254, length in 8u8..=30) {
        prop_assume!(a != 127 && a != 10);
        let inputs = worker(&format!("ip={a}.{b}.{c}.{d}:::{length}::eth0:none"));
        let node = resolve(&inputs, &Remembered::default()).unwrap().node;
        let AddressMethod::Static(addressing) = &node.network.links[0].method else { panic!("not static") };
        prop_assert_eq!(addressing.addresses[0].to_string(), format!("{a}.{b}.{c}.{d}/{length}"));
    }

    #[test]
    fn a_netmask_means_its_length(length in 1u8..=32) {
        let mask = std::net::Ipv4Addr::from(u32::MAX << (32 - length));
        let read = |mask: String| {
            let inputs = worker(&format!("ip=192.168.7.9:::{mask}::eth0:none"));
            resolve(&inputs, &Remembered::default()).unwrap().node.network
        };
        prop_assert_eq!(read(mask.to_string()), read(length.to_string()));
    }

    /// Two networks are refused exactly if they share an address.
    #[test]
    fn overlapping_networks_are_refused(pods: u32, pod_length in 8u8..=24, services: u32, service_length in 12u8..=28) {
        let net = |address: u32, length: u8| ipnet::Ipv4Net::new(address.into(), length).unwrap().trunc();
        let (pods, services) = (net(pods, pod_length), net(services, service_length));
        let text = format!(
            "apiVersion: keelson.dev/v1alpha1\nkind: NodeConfiguration\n\
             spec: {{role: worker, cluster: {{podCIDR: {pods}, serviceCIDR: {services}}}}}\n"
        );
        let fw_cfg = [("opt/keelson/document".to_owned(), text.into_bytes())].into();
        let shared = pods.network() <= services.broadcast() && services.network() <= pods.broadcast();
        let outcome = resolve(&Inputs { fw_cfg, ..Inputs::default() }, &Remembered::default());
        prop_assert_eq!(outcome.is_err(), shared, "{:?}", outcome);
    }

    #[test]
    fn a_mac_address_reads_as_it_prints(bytes: [u8; 6]) {
        let mac = MacAddress(bytes);
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        prop_assert_eq!(mac.to_string().replace(':', "-").to_uppercase().parse(), Ok(mac));
    }
}
