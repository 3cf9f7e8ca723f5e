//! Where a fault is in the tree, what serde said about it without the value, and how to cut it off.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::source::NAME_MAX;

/// `spec.network.links[0].mtu`
pub(super) fn shown(path: &Path) -> String {
    path.iter().fold(String::new(), |shown, segment| match segment {
        Segment::Seq { index } => format!("{shown}[{index}]"),
        Segment::Map { key } | Segment::Enum { variant: key } if key.len() > NAME_MAX => {
            format!("{shown}.(a long name)")
        }
        Segment::Map { key } | Segment::Enum { variant: key } if shown.is_empty() => key.clone(),
        Segment::Map { key } | Segment::Enum { variant: key } => format!("{shown}.{key}"),
        Segment::Unknown => format!("{shown}?"),
    })
}

/// serde's "unknown field `a`, expected one of `b`, `c`", taken apart.
pub(super) fn unknown_field(message: &str) -> Option<(String, String)> {
    let rest = message.strip_prefix("unknown field `")?;
    // The name is foreign and may hold anything; what follows it is serde's.
    let (name, allowed) = match rest.rsplit_once("`, expected ") {
        Some((name, allowed)) => (name, allowed),
        None => (rest.split_once("`, there are no fields").map(|(name, _)| name)?, ""),
    };
    let allowed = allowed.trim_start_matches("one of ").replace('`', "");
    Some((name.to_owned(), allowed))
}

/// The path of an unknown field ends in the field itself; its parent is what remains.
pub(super) fn parent_of_unknown(path: &str, unknown: &str) -> String {
    match path.strip_suffix(unknown) {
        Some(parent) => parent.strip_suffix('.').unwrap_or(parent).to_owned(),
        None => path.to_owned(),
    }
}

/// serde's "invalid type: string "x", expected a boolean", without the value.
pub(super) fn type_fault(message: &str) -> (String, String) {
    let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    // What is expected comes from our types, except that the value before it may hold the same words.
    let expected = if expected.contains('"') { "" } else { expected };
    let found = message
        .strip_prefix("invalid type: ")
        .and_then(|found| found.split([' ', '`', ',']).next())
        .filter(|kind| ["string", "integer", "boolean", "map", "sequence", "null", "floating"].contains(kind));
    let expected = expected.split(" at line ").next().unwrap_or_default();
    let problem = match found {
        Some("floating") => "a number with a fraction does not fit here".to_owned(),
        Some("integer") => "a number does not fit here".to_owned(),
        Some("null") => "nothing does not fit here".to_owned(),
        Some("map") => "a mapping does not fit here".to_owned(),
        Some("sequence") => "a list does not fit here".to_owned(),
        Some(kind) => format!("a {kind} does not fit here"),
        None => "the value does not fit here".to_owned(),
    };
    let expected = match expected {
        "u16" | "u32" => "a number without sign or fraction",
        "a map" => "a mapping",
        "a sequence" => "a list",
        other => other,
    };
    (problem, expected.to_owned())
}

/// Removes the node at `path`, or the field `unknown` of it; an element takes its list along, so that no other
/// element changes its index. False if there is nothing to remove.
pub(super) fn cut(tree: &mut Value, path: &Path, unknown: Option<&str>) -> bool {
    let mut segments: Vec<&Segment> = path.iter().collect();
    let field = match unknown {
        Some(field) => {
            let ends_in_it = matches!(segments.last(), Some(Segment::Map { key }) if key == field);
            if ends_in_it && !has_field(tree, &segments, field) {
                segments.pop();
            }
            field.to_owned()
        }
        None => loop {
            match segments.pop() {
                Some(Segment::Map { key }) => break key.clone(),
                Some(Segment::Seq { .. }) => {}
                _ => return false,
            }
        },
    };
    match find(tree, &segments) {
        Some(Value::Object(fields)) => fields.remove(&field).is_some(),
        _ => false,
    }
}

fn has_field(tree: &mut Value, segments: &[&Segment], field: &str) -> bool {
    find(tree, segments).and_then(|node| node.get(field)).is_some()
}

fn find<'a>(tree: &'a mut Value, segments: &[&Segment]) -> Option<&'a mut Value> {
    segments.iter().try_fold(tree, |node, segment| match segment {
        Segment::Map { key } => node.get_mut(key.as_str()),
        Segment::Seq { index } => node.get_mut(*index),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}
