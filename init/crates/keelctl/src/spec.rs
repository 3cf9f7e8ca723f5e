//! A document's `spec` by the paths of its fields, such as `cluster.extraSANs` or `node.labels.rack`.
//!
//! The paths are split at dots, except below the fields whose keys are the operator's own: there the rest is the key,
//! dots and all, as in `node.labels.topology.kubernetes.io/zone`. Whether a field exists, and whether a value is one of it,
//! is for a control plane to say.

use serde_json::{Map, Value};

/// Below these, keys are the operator's.
const FREE_KEYS: [&str; 3] = ["node.labels", "node.sysctls", "cluster.oidc.requiredClaims"];
/// Below this it is a component, and below that they are.
const FLAGS: &str = "cluster.extraArguments";
/// The groups that a spec consists of; all else in it is a field.
const GROUPS: [&str; 4] = ["network", "node", "cluster", "registries"];

/// Where a value is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Field {
    keys: Vec<String>,
    /// Whether the value is a text, whatever it looks like.
    is_text: bool,
}

/// Takes a path with or without `spec.` before it.
pub(crate) fn field(text: &str) -> Result<Field, String> {
    let path = text.strip_prefix("spec.").unwrap_or(text);
    let below = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix('.');
    let owned = |keys: &str| keys.split('.').map(str::to_owned).collect::<Vec<_>>();
    let free = FREE_KEYS.into_iter().find_map(|prefix| Some((owned(prefix), below(prefix)?)));
    let flag = || {
        let (component, flag) = below(FLAGS)?.split_once('.')?;
        Some(([owned(FLAGS), vec![component.to_owned()]].concat(), flag))
    };
    let field = match free.or_else(flag) {
        Some((mut keys, last)) => {
            keys.push(last.to_owned());
            Field { keys, is_text: true }
        }
        None => Field { keys: owned(path), is_text: false },
    };
    if field.keys.iter().any(String::is_empty) { Err(format!("{text:?} is no field")) } else { Ok(field) }
}

/// `FIELD=VALUE`, the value in YAML.
pub(crate) fn assignment(text: &str) -> Result<(Field, Value), String> {
    let (path, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not FIELD=VALUE"))?;
    let field = field(path)?;
    if field.is_text {
        return Ok((field, Value::from(unquoted(value))));
    }
    let parsed = serde_saphyr::from_str::<Value>(value);
    parsed.map(|value| (field, value)).map_err(|_| format!("the value of {path} is not YAML"))
}

/// A text in YAML's quotes means what is between them.
fn unquoted(text: &str) -> String {
    let quoted = text.starts_with(['"', '\'']);
    let parsed = if quoted { serde_saphyr::from_str::<String>(text).ok() } else { None };
    parsed.unwrap_or_else(|| text.to_owned())
}

pub(crate) fn set(spec: &mut Map<String, Value>, field: &Field, value: Value) {
    let Some((last, groups)) = field.keys.split_last() else { return };
    let mut place = spec;
    for group in groups {
        let inner = place.entry(group.as_str()).or_insert(Value::Null);
        if !inner.is_object() {
            *inner = Value::Object(Map::new());
        }
        let Value::Object(inner) = inner else { return };
        place = inner;
    }
    place.insert(last.clone(), value);
}

/// With the last of a map's entries the map goes as well: an empty one would say that there are none.
pub(crate) fn unset(spec: &mut Map<String, Value>, field: &Field) {
    remove(spec, &field.keys);
}

fn remove(place: &mut Map<String, Value>, keys: &[String]) {
    match keys {
        [] => {}
        [last] => drop(place.remove(last)),
        [group, rest @ ..] => {
            let Some(Value::Object(inner)) = place.get_mut(group) else { return };
            remove(inner, rest);
            if inner.is_empty() {
                place.remove(group);
            }
        }
    }
}

/// The fields that a spec says, with their values.
pub(crate) fn fields(spec: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (name, value) in spec.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| GROUPS.contains(&name.as_str())) {
            Some(group) => found.extend(group.iter().map(|(inner, value)| (format!("{name}.{inner}"), value))),
            None => found.push((name.clone(), value)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(spec: Value, assignments: &[&str]) -> Value {
        let Value::Object(mut spec) = spec else { panic!("{spec}") };
        for text in assignments {
            let (field, value) = assignment(text).unwrap();
            set(&mut spec, &field, value);
        }
        Value::Object(spec)
    }

    fn without(spec: Value, paths: &[&str]) -> Value {
        let Value::Object(mut spec) = spec else { panic!("{spec}") };
        for path in paths {
            unset(&mut spec, &field(path).unwrap());
        }
        Value::Object(spec)
    }

    #[test]
    fn a_value_is_yaml_and_its_field_may_begin_with_spec() {
        let set = after(json!({}), &["cluster.extraSANs=[api.example.org]", "spec.timeServers=[a, 10.0.0.1]"]);
        assert_eq!(set, json!({ "cluster": { "extraSANs": ["api.example.org"] }, "timeServers": ["a", "10.0.0.1"] }));
        let set = after(set, &["httpProxy={https: 'http://p:3128'}", "cluster.virtualAddress=192.0.2.10"]);
        assert_eq!(set["httpProxy"], json!({ "https": "http://p:3128" }));
        assert_eq!(set["cluster"]["virtualAddress"], "192.0.2.10");
        assert_eq!(set["cluster"]["extraSANs"], json!(["api.example.org"]), "its neighbour stays");
    }

    #[test]
    fn an_operators_own_key_has_its_dots_and_its_value_is_a_text() {
        let set = after(
            json!({ "node": { "labels": { "zone": "a" } } }),
            &[
                "node.labels.topology.kubernetes.io/rack=7",
                "node.labels.on=true",
                "node.labels.empty=",
                "node.sysctls.vm.max_map_count=262144",
                "node.sysctls.kernel.core_pattern='|/x=y'",
                "cluster.extraArguments.kubelet.v=4",
                "cluster.oidc.requiredClaims.https://example/claim=x",
            ],
        );
        let expected = json!({
            "node": {
                "labels": { "zone": "a", "topology.kubernetes.io/rack": "7", "on": "true", "empty": "" },
                "sysctls": { "vm.max_map_count": "262144", "kernel.core_pattern": "|/x=y" },
            },
            "cluster": {
                "extraArguments": { "kubelet": { "v": "4" } },
                "oidc": { "requiredClaims": { "https://example/claim": "x" } },
            },
        });
        assert_eq!(set, expected);
        let whole = after(json!({}), &["node.labels={rack: r7}", "cluster.extraArguments={kubelet: {v: '4'}}"]);
        assert_eq!(whole["node"]["labels"], json!({ "rack": "r7" }));
        assert_eq!(whole["cluster"]["extraArguments"]["kubelet"]["v"], "4");
    }

    #[test]
    fn what_is_unset_leaves_nothing_behind_and_its_neighbours_alone() {
        let spec = json!({
            "node": { "labels": { "topology.kubernetes.io/rack": "7" }, "taints": [] },
            "cluster": { "extraArguments": { "kubelet": { "v": "4" } } },
        });
        let left = without(spec.clone(), &["node.labels.topology.kubernetes.io/rack"]);
        assert_eq!(left["node"], json!({ "taints": [] }));
        assert_eq!(without(left, &["spec.node.taints", "cluster.extraArguments.kubelet.v"]), json!({}));
        assert_eq!(without(spec.clone(), &["node", "cluster.extraArguments"]), json!({}));
        assert_eq!(without(spec.clone(), &["timeServers", "node.labels.other", "node.taints.x"]), spec);
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        for text in ["timeServers", "=1", "node..labels=1", "spec.=1", "timeServers=[", "node.labels.=1"] {
            assert!(assignment(text).is_err(), "{text}");
        }
        assert!(field("").is_err());
    }

    #[test]
    fn groups_are_taken_apart_and_fields_are_not() {
        let spec = json!({ "node": { "labels": { "a": "b" } }, "httpProxy": { "http": "x" }, "timeServers": [] });
        let names: Vec<_> = fields(&spec).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["httpProxy", "node.labels", "timeServers"]);
    }
}
