use super::*;

fn document(spec: &str) -> (RawConfig, Vec<String>) {
    let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\nspec:\n{spec}");
    let (raw, errors) = parse(text.as_bytes(), &Origin::Smbios(2));
    (raw, errors.iter().map(ToString::to_string).collect())
}

#[test]
fn reads_a_whole_document_and_keeps_each_path() {
    let (raw, errors) = document(
        r#"
  role: worker
  token: abc
  bootstrap: false
  peers: [none]
  operatorKeys: [{name: ann, publicKey: a2V5}]
  timeServers: [time.example]
  network:
    links:
      - {link: eth0, addresses: [10.0.0.5/24], gateway: 10.0.0.1, mtu: 1400}
      - link: 52:54:00:00:00:01
    vlans: [{name: v5, parent: eth0, id: 5}]
    routes: [{to: 10.8.0.0/16, via: 10.0.0.9, metric: 7}]
  node:
    labels: {zone: "1"}
    taints: []
  cluster:
    podCIDR: 10.1.0.0/16
    extraArguments: {kubelet: {v: "2"}}
  registries:
    credentials: [{registry: docker.io, username: u, password: p}]
"#,
    );
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(raw.role.unwrap().source.to_string(), "document (SMBIOS type 11 string 2), field spec.role");
    let links = raw.links.unwrap().value;
    assert_eq!(links[1].source.field.as_deref(), Some("spec.network.links[1]"));
    assert_eq!(links[0].value.mtu.as_deref(), Some("1400"));
    let routes = raw.routes.unwrap().value;
    assert_eq!((routes[0].value.via.as_str(), routes[0].value.metric), ("10.0.0.9", Some(7)));
    assert_eq!(routes[0].source.field.as_deref(), Some("spec.network.routes[0]"));
    assert_eq!(raw.token.unwrap().value.expose(), "abc");
    assert_eq!(raw.taints.unwrap().value, []);
    assert_eq!(raw.labels.unwrap().value["zone"], "1");
    assert_eq!(raw.registry_credentials.unwrap().value["docker.io"].password.expose(), "p");
}

#[test]
fn reports_every_fault_with_its_path() {
    let (raw, errors) = document(
        "
  role: worker
  rolle: worker
  bootstrap: maybe
  network:
    linkz: []
    links:
      - {link: eth0, mtu: many}
      - {link: eth1, mtuu: 1}
  cluster: [1]
",
    );
    let at = |path: &str| errors.iter().filter(|error| error.contains(&format!("field {path}:"))).count();
    for path in [
        "spec.rolle",
        "spec.bootstrap",
        "spec.network.linkz",
        "spec.network.links[0].mtu",
        "spec.network.links[1].mtuu",
        "spec.cluster",
    ] {
        assert_eq!(at(path), 1, "{path} in {errors:#?}");
    }
    assert_eq!(errors.len(), 6, "{errors:#?}");
    assert_eq!(raw.role.unwrap().value, "worker", "what is right is kept");
    let unknown = errors.iter().find(|error| error.contains("spec.network.linkz")).unwrap();
    assert!(unknown.contains("there is no such field; allowed: links, vlans, bonds, routes"), "{unknown}");
}

#[test]
fn refuses_what_is_not_our_document() {
    let problem = |text: &str| {
        let (_, errors) = parse(text.as_bytes(), &Origin::CommandLine);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(problem("kind: Pod\n").contains("field apiVersion: it is missing; allowed: keelson.dev/v1alpha1"));
    assert!(problem("kind: Pod\n").contains("field kind: it is another; allowed: NodeConfiguration"));
    assert!(problem("a: [").contains("it is not YAML"));
    assert!(problem("").contains("document (kernel command line)"));
    assert!(problem("spec: {role: a, role: b}").contains("a field is given twice"));
    assert!(problem("spec: {}\n---\nspec: {}\n").contains("a second document"));
    assert!(problem(&"[".repeat(10_000)).contains("not YAML"));
    assert!(problem(&" ".repeat(SIZE_MAX + 1)).contains("the limit is"));
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert!(!problem(bomb).is_empty());
}

/// Whatever field a secret ends up in by a slip, no message repeats it.
#[test]
fn no_message_shows_a_value() {
    const MARK: &str = "zq7s3cr3t";
    let slips = [
        format!("  token:{MARK}\n"),
        format!("  token: [{MARK}]\n"),
        format!("  token: {{{MARK}{MARK}{MARK}{MARK}: x}}\n"),
        format!("  bootstrap: {MARK}\n"),
        format!("  network: {MARK}\n"),
        format!("  network: {{links: [{MARK}]}}\n"),
        format!("  network: {{links: [{{mtu: {MARK}}}]}}\n"),
        format!("  network: {{links: [{{mtu: \"{MARK}, expected {MARK}\"}}]}}\n"),
        format!("  node: {{labels: {{a: [{MARK}]}}}}\n"),
        format!("  peers: {MARK}\n"),
        format!("  token: *{MARK}\n"),
        format!("  token: \"{MARK}\n"),
        format!("  token: !<{MARK}> x\n   y: {MARK}\n  z\n"),
        format!("  registries: {{credentials: [{{registry: a, username: b, password: [{MARK}]}}]}}\n"),
    ];
    for slip in slips {
        let (raw, errors) = document(&slip);
        assert!(!errors.is_empty(), "{slip} was accepted: {raw:?}");
        assert!(!errors.concat().contains(MARK), "{slip} gives {errors:#?}");
        assert!(!format!("{raw:?}").contains(MARK), "{slip}");
    }
}

#[test]
fn the_committed_schema_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/nodeconfiguration.v1alpha1.json");
    let current = schema().unwrap();
    if std::env::var_os("KEELSON_WRITE_SCHEMA").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "the schema is stale; run this test once with KEELSON_WRITE_SCHEMA=1");
}
