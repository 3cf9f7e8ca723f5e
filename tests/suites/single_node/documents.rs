//! Machines that a document makes otherwise than the shared one, each by itself: their images come through a mirror, their pods have
//! addresses of both families.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keelson_vm::commands::image_disk;
use keelson_vm::machine::create_disk;
use keelson_vm::node::Node;
use keelson_vm::qemu::{Card, Disk, Hardware, Network, Ports};
use keelson_vm::wait;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::hostile_pods::wait_phase;
use crate::lifecycle::{run_job, wait_for_web};
use crate::shared::{Build, Outcome, build, ensure, trial, with_own};
use crate::workload::WEB;

const USER: &str = "puller";
const PASSWORD: &str = "only-for-the-mirror";
/// Where QEMU's user network has the host.
const HOST: &str = "10.0.2.2";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_image_comes_through_a_mirror_with_credentials_and_its_own_authority", mirror),
        trial("dual_stack_pods_and_services_answer_by_both_families", dual_stack),
    ]
}

/// A control plane from a document's `spec`, until the test has ended.
fn with_own_node(folder: &Path, spec: &Value, images: bool, test: impl FnOnce(&mut Node) -> Outcome) -> Outcome {
    let build = build()?;
    // As the machine is called.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let document = json!({ "apiVersion": "keelson.dev/v1alpha1", "kind": "NodeConfiguration", "spec": spec });
    let file = folder.join("document.json");
    fs::write(&file, document.to_string())?;
    let disk = folder.join("disk.raw");
    create_disk(&disk, 16 << 10)?;
    let mut disks = vec![Disk::from_file(&disk, "keelson")];
    if images {
        disks.extend(image_disk(folder, std::slice::from_ref(&build.image.workload))?);
    }
    let operator_key = build.tools.generate_key(&Node::operator_key(folder))?;
    let hardware = Hardware {
        processors: 2,
        memory_mib: 3072,
        kernel: build.image.kernel.clone(),
        initramfs: build.image.initramfs.clone(),
        command_line: format!("keelson.role=control-plane keelson.bootstrap keelson.peers=none keelson.name={name}"),
        smbios: vec![operator_key],
        fw_cfg: vec![("opt/keelson/document".to_owned(), file)],
        disks,
        network: Network::User(Ports::free()?),
        card: Card::default(),
        firmware: None,
        days_ahead: None,
    };
    with_own(build.node(folder, hardware)?, |node| {
        node.machine.start()?;
        node.pin_api()?;
        node.wait_ready(|_| ())?;
        node.wait_dns()?;
        test(node)
    })
}

fn dual_stack() -> Outcome {
    let folder = build()?.machine_folder("dual-stack")?;
    let cluster = json!({ "podCIDR": "10.244.0.0/16,fd44::/56", "serviceCIDR": "10.96.0.0/16,fd96::/112" });
    with_own_node(&folder, &json!({ "cluster": cluster }), true, |node| {
        node.kubectl().apply(WEB)?;
        let both = r#"{"spec":{"ipFamilyPolicy":"RequireDualStack"}}"#;
        node.kubectl().run(&["patch", "service", "web", "--type=merge", "-p", both])?;
        wait_for_web(node)?;
        let pods = node.kubectl().json(&["get", "pods", "-l", "app=web"])?;
        let pod = addresses(&pods["items"][0]["status"]["podIPs"], "ip");
        let service = node.kubectl().json(&["get", "service", "web"])?;
        let service = addresses(&service["spec"]["clusterIPs"], "");
        println!("the pod is at {pod:?}, its Service at {service:?}");
        for (of, [v4, v6]) in [(&pod, ["10.244.", "fd44:"]), (&service, ["10.96.", "fd96:"])] {
            let right = of.len() == 2 && of[0].starts_with(v4) && of[1].starts_with(v6);
            ensure(right, || format!("{of:?} is not {v4} and {v6}"))?;
        }
        for (name, url) in [
            ("pod-v4", format!("http://{}:8080/env", pod[0])),
            ("pod-v6", format!("http://[{}]:8080/env", pod[1])),
            ("service-v4", format!("http://{}/env", service[0])),
            ("service-v6", format!("http://[{}]/env", service[1])),
        ] {
            let answer = run_job(node, name, &["get", &url])?;
            ensure(answer.trim() == "from a config map", || format!("{url} answered {answer:?}"))?;
        }
        Ok(())
    })
}

/// A list of addresses, or of what has them in a field.
fn addresses(list: &Value, field: &str) -> Vec<String> {
    let of = |entry: &Value| entry.as_str().or_else(|| entry[field].as_str()).unwrap_or_default().to_owned();
    list.as_array().into_iter().flatten().map(of).collect()
}

/// A registry on the host, until it is dropped.
struct Registry {
    child: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(build: &Build, folder: &Path) -> Result<Self, Failed> {
        let (certificate, key, log) = (folder.join("mirror.crt"), folder.join("mirror.key"), folder.join("mirror.log"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"])
            .args(["-subj", "/CN=mirror", "-addext", &format!("subjectAltName=IP:{HOST}")])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()?;
        ensure(made.status.success(), || String::from_utf8_lossy(&made.stderr).into_owned())?;
        let child = Command::new(&build.image.workload_program)
            .arg("registry")
            .args([&build.image.workload, &certificate, &key])
            .arg(format!("{USER}:{PASSWORD}"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .spawn()?;
        let mut registry = Self { child, port: 0 };
        registry.port = wait::until("the registry to say its port", Duration::from_secs(10), || {
            let file = fs::File::open(&log).map_err(|error| error.to_string())?;
            let mut line = String::new();
            BufReader::new(file).read_line(&mut line).map_err(|error| error.to_string())?;
            line.trim().parse().map_err(|_| format!("it says {line:?}"))
        })?;
        Ok(registry)
    }
}

fn mirror() -> Outcome {
    let build = build()?;
    let folder = build.machine_folder("mirror")?;
    let registry = Registry::start(build, &folder)?;
    let host = format!("{HOST}:{}", registry.port);
    let spec = json!({
        "trustedCertificates": [fs::read_to_string(folder.join("mirror.crt"))?],
        "registries": {
            "mirrors": [{"registry": "registry.example", "endpoints": [format!("https://{host}")]}],
            "credentials": [{"registry": host, "username": USER, "password": PASSWORD}],
        },
    });
    with_own_node(&folder, &spec, false, |node| pulled(node, &folder))
}

fn pulled(node: &Node, folder: &Path) -> Outcome {
    node.kubectl().apply(
        r"
apiVersion: v1
kind: Pod
metadata: {name: pulled}
spec:
  restartPolicy: Never
  containers:
  - name: pulled
    image: registry.example/of/workload:latest
    args: [echo, from the mirror]
",
    )?;
    wait_phase(node, "pulled", &["Succeeded"])?;
    let said = node.kubectl().run(&["logs", "pulled"])?;
    ensure(said.trim() == "from the mirror", || format!("the pod said {said:?}"))?;
    let asked = fs::read_to_string(folder.join("mirror.log"))?;
    println!("{}", asked.trim());
    ensure(!asked.contains(" 401"), || format!("it was asked without credentials:\n{asked}"))?;
    // They are the mirror's alone.
    ensure(!node.machine.console().text().contains(PASSWORD), || "the console has the password".to_owned())
}
