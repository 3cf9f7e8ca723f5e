//! Seeded mutation of each foreign input: whatever the bytes are, parsing ends, nothing panics, and no secret is shown.
#![forbid(unsafe_code)]
#![cfg(test)]

use std::collections::BTreeMap;

use base64::Engine as _;
use keelson_config::{Inputs, Remembered, command_line, redact, resolve, smbios};

/// Printed nowhere, whatever becomes of the bytes around it. Its case and digits keep it from being a field's name.
const MARK: &str = "Zq7-s3cr3t-mark-that-is-too-long-to-be-a-field-name";

const LINE: &str = "console=ttyS0 panic=10 keelson.role=worker keelson.name=w1 keelson.token=Zq7-s3cr3t-mark-that-is-too-long-to-be-a-field-name \
    keelson.peers=cp1,cp2:6400 keelson.state=auto keelson.ntp=10.0.0.1 ip=10.0.0.5::10.0.0.1:255.255.255.0:n:eth0:none:10.0.0.2 \
    ip=[fd00::1]::[fd00::2]:64::eth1:none:1400 nameserver=1.1.1.1 vlan=eth0.5:eth0 bond=bond0:eth1,eth2:mode=802.3ad,miimon=100:9000 \
    \"keelson.operator-key=a b\" keelson.bootstrap=false";

const DOCUMENT: &str = r#"apiVersion: keelson.dev/v1alpha1
kind: NodeConfiguration
spec:
  role: worker
  token: "Zq7-s3cr3t-mark-that-is-too-long-to-be-a-field-name"
  peers: [none]
  network:
    links: &links
      - {link: eth0, addresses: [10.0.0.5/24], gateway: 10.0.0.1, mtu: 1400}
      - {link: "52:54:00:00:00:01", method: dhcp}
    bonds: [{name: b, members: [eth1], options: {mode: 802.3ad}}]
  node:
    labels: {zone: "1", example.com/a: b}
    taints: [{key: a, value: b, effect: NoSchedule}]
    sysctls: {vm.swappiness: "1"}
  cluster:
    podCIDR: 10.1.0.0/16
    serviceCIDR: 10.2.0.0/16
    dnsAddress: 10.2.0.53
    extraSANs: [a.example, 10.0.0.9]
    virtualAddress: 10.0.0.10
    extraArguments: {kubelet: {v: "2"}}
    oidc: {issuerURL: "https://a", clientID: b}
  registries:
    mirrors: [{registry: docker.io, endpoints: ["https://m"]}]
  httpProxy: {http: "http://p:80", noProxy: [.svc, 10.0.0.0/8]}
  trustedCertificates:
    - |
      -----BEGIN CERTIFICATE-----
      -----END CERTIFICATE-----
"#;

/// What means something to the parsers.
const WORDS: [&[u8]; 26] = [
    b"\"",
    b" ",
    b"=",
    b":",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\n",
    b"\n  ",
    b"- ",
    b"*links",
    b"&a ",
    b"!!binary ",
    b"|",
    b"#",
    b"\0",
    b"\xff",
    b"keelson.",
    b"_",
    b"0",
    b"-1",
    b"65536",
    b"\t",
    b"<<: ",
];

fn campaign(name: &str, slice: u64, seed: &[u8], check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    keelson_mutation::campaign(name, slice, &[seed.to_vec()], &WORDS, check);
}

/// Resolves and holds the invariants that every input must leave intact.
fn judge(inputs: &Inputs, secret_is_in_place: bool) {
    match resolve(inputs, &Remembered::default()) {
        Ok(resolved) => {
            let json = serde_json::to_string(&resolved.node).unwrap();
            if secret_is_in_place {
                assert!(!json.contains(MARK), "the secret is in node.json: {json}");
                assert!(!format!("{resolved:?}").contains(MARK), "the secret is printed: {resolved:?}");
            }
            assert_eq!(serde_json::from_str::<keelson_config::NodeConfig>(&json).unwrap(), resolved.node);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            assert!(!errors.to_string().contains(MARK), "the secret is in a message: {errors}");
        }
    }
}

#[test]
fn command_lines() {
    let check = |line: &[u8]| {
        for word in command_line::words(line) {
            assert!(word.key.len() + word.value.map_or(0, <[u8]>::len) <= line.len());
        }
        let _ = resolve(&Inputs { command_line: line.to_vec(), ..Inputs::default() }, &Remembered::default());
        let _ = redact(line);
    };
    campaign("command line", 60_000, LINE.as_bytes(), check);
}

/// The key is intact here, whatever else is not: then its value is never shown.
#[test]
fn tokens_on_command_lines() {
    let check = |around: &[u8]| {
        let mut line: Vec<u8> = around.iter().copied().filter(|byte| *byte != b'"').collect();
        line.extend_from_slice(format!(" keelson.token={MARK} ").as_bytes());
        line.extend_from_slice(around);
        assert!(!redact(&line).contains(MARK), "{}", redact(&line));
        judge(&Inputs { command_line: line, ..Inputs::default() }, true);
    };
    campaign("token on a command line", 20_000, LINE.replace(MARK, "x").as_bytes(), check);
}

#[test]
fn smbios_tables() {
    let mut table = vec![1, 8, 0, 1, 1, 2, 0, 0];
    table.extend(b"QEMU\0Standard PC\0\0");
    table.extend([11, 5, 0, 2, 3]);
    table.extend(b"keelson.role=worker\0io.systemd.credential.binary:keelson.name=dzE=\0");
    let document = base64::engine::general_purpose::STANDARD.encode(DOCUMENT);
    table.extend(format!("keelson.document={document}\0\0").bytes());
    table.extend([127, 4, 0, 3, 0, 0]);
    let check = |table: &[u8]| {
        assert!(smbios::oem_strings(table).iter().map(|string| string.len()).sum::<usize>() <= table.len());
        let _ = resolve(&Inputs { dmi_table: table.to_vec(), ..Inputs::default() }, &Remembered::default());
    };
    campaign("SMBIOS", 10_000, &table, check);
}

#[test]
fn fw_cfg_items() {
    let check = |value: &[u8]| {
        let keys = ["role", "name", "token", "bootstrap", "peers", "operator-key", "state", "ntp", "ip", "nameserver"];
        for key in keys.into_iter().chain(["vlan", "bond", "document", "other"]) {
            let fw_cfg = BTreeMap::from([(format!("opt/keelson/{key}"), value.to_vec())]);
            let _ = resolve(&Inputs { fw_cfg, ..Inputs::default() }, &Remembered::default());
        }
    };
    campaign("fw_cfg", 3_000, b"10.0.0.5::10.0.0.1:255.255.255.0:n:eth0:none:10.0.0.2", check);
}

#[test]
fn documents() {
    let check = |text: &[u8]| {
        let fw_cfg = BTreeMap::from([("opt/keelson/document".to_owned(), text.to_vec())]);
        // A mutation may make the secret a label; then it is one, but no message repeats it.
        judge(&Inputs { fw_cfg, ..Inputs::default() }, false);
    };
    campaign("document", 12_000, DOCUMENT.as_bytes(), check);
}

/// The seeds themselves must be right, or the campaigns only ever see the first fault.
#[test]
fn the_seeds_are_valid() {
    let fw_cfg = BTreeMap::from([("opt/keelson/document".to_owned(), DOCUMENT.as_bytes().to_vec())]);
    resolve(&Inputs { fw_cfg, ..Inputs::default() }, &Remembered::default()).unwrap();
    let line = LINE.replace("\"keelson.operator-key=a b\"", "");
    resolve(&Inputs { command_line: line.into_bytes(), ..Inputs::default() }, &Remembered::default()).unwrap();
}

/// Files of the EFI system partition, which anybody with the disk in hand can write.
#[test]
fn files_of_the_esp() {
    let check = |content: &[u8]| {
        let paths = ["keelson/words", "keelson/role", "keelson/token", "loader/credentials/keelson.token.cred"];
        for path in paths {
            let esp = BTreeMap::from([(path.to_owned(), content.to_vec())]);
            let _ = resolve(&Inputs { esp, ..Inputs::default() }, &Remembered::default());
        }
    };
    campaign("a file of the ESP", 3_000, LINE.as_bytes(), check);
}
