//! Objects that the tests apply.

/// A Deployment behind a Service, its message in a `ConfigMap`.
pub(crate) const WEB: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {MESSAGE: from a config map}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: keelson.local/workload:1
        imagePullPolicy: Never
        args: [serve]
        envFrom: [{configMapRef: {name: web}}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
";

/// A Job that runs the workload once with `arguments`, which need no quoting.
pub(crate) fn job(name: &str, arguments: &[&str], host: bool) -> String {
    manifest(name, arguments, host, "")
}

/// The same on a node of that name, whatever its scheduler thinks.
pub(crate) fn job_on(node: &str, name: &str, arguments: &[&str]) -> String {
    manifest(name, arguments, false, &format!("nodeName: {node}\n      "))
}

fn manifest(name: &str, arguments: &[&str], host: bool, place: &str) -> String {
    let arguments = arguments.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let security = if host { "hostPID: true\n      " } else { "" };
    let privileged = if host { "\n        securityContext: {privileged: true}" } else { "" };
    format!(
        r"
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  backoffLimit: 0
  template:
    spec:
      {place}{security}restartPolicy: Never
      containers:
      - name: once
        image: keelson.local/workload:1
        imagePullPolicy: Never
        args: [{arguments}]{privileged}
"
    )
}
