//! The text of one file to objects, with everything that is wrong in it.
//!
//! Invariant: pure. One broken document hides none of the others.

use crate::{
    condition::{Condition, Place, Severity, quoted},
    manifest::{API_VERSION, AuthorizationPolicy, Kind, Manifest, MeshPolicy, Object, Origin, Problem},
    yaml::{self, Node, Value},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use std::{path::Path, sync::Arc};

/// What one file holds.
#[derive(Debug, Default, Clone)]
pub struct Contents {
    /// The objects that could be read.
    pub objects: Vec<Arc<Manifest>>,
    /// Everything that is worth saying about the file.
    pub conditions: Vec<Condition>,
    /// Documents that could not be read and may have been policies: without them, what they closed could be open.
    pub policies_lost: usize,
}

impl Contents {
    /// Whether every document could be read.
    pub fn is_sound(&self) -> bool {
        self.conditions.iter().all(|condition| condition.severity != Severity::Mistake)
    }
}

/// Reads the text of a file.
pub fn read(file: &Arc<Path>, text: &str) -> Contents {
    let mut contents = Contents::default();
    for document in yaml::documents(text) {
        match yaml::parse(document) {
            Ok(tree) => read_tree(file, tree, None, &mut contents),
            Err(error) => {
                contents.policies_lost += usize::from(may_hold_policy(document.text));
                contents.conditions.push(Condition {
                    severity: Severity::Mistake,
                    place: Place { file: file.clone(), line: error.line },
                    object: String::new(),
                    field: String::new(),
                    problem: format!("not readable as YAML: {}", error.problem),
                    remedy: "correct the syntax; the rest of the document could not be looked at".to_owned(),
                });
            }
        }
    }
    contents
}

/// A file that was taken for UTF-8 text and is none.
pub fn not_text(file: &Arc<Path>) -> Contents {
    let condition = Condition {
        severity: Severity::Mistake,
        place: Place { file: file.clone(), line: 1 },
        object: String::new(),
        field: String::new(),
        problem: "not a text file in UTF-8".to_owned(),
        remedy: "save it as UTF-8, or give it another ending than .yaml".to_owned(),
    };
    Contents { objects: Vec::new(), conditions: vec![condition], policies_lost: 1 }
}

/// A text that is cut off before it says its kind may hold one, too.
fn may_hold_policy(text: &str) -> bool {
    !text.contains("kind:")
        || [Kind::MeshPolicy, Kind::AuthorizationPolicy].iter().any(|kind| text.contains(kind.name()))
}

/// Reads one object, or the items of a list. `item_kind` is what items of a typed list are when they don't say it.
fn read_tree(file: &Arc<Path>, tree: Node, item_kind: Option<(&str, &str)>, contents: &mut Contents) {
    let mistake = |line: u32, field: &str, problem: String, remedy: &str| Condition {
        severity: Severity::Mistake,
        place: Place { file: file.clone(), line },
        object: String::new(),
        field: field.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    let (Some(kind), Some(api_version)) = (
        tree.text(&["kind"]).or_else(|| item_kind.map(|(kind, _)| kind)),
        tree.text(&["apiVersion"]).or_else(|| item_kind.map(|(_, api_version)| api_version)),
    ) else {
        let field = if tree.text(&["kind"]).is_some() { "apiVersion" } else { "kind" };
        let problem = "missing, so this is no Kubernetes object".to_owned();
        contents.policies_lost += 1;
        contents.conditions.push(mistake(tree.line, field, problem, "write apiVersion and kind at the start of it"));
        return;
    };
    if let Some(item_kind) = kind.strip_suffix("List") {
        let (item_kind, api_version) = (item_kind.to_owned(), api_version.to_owned());
        let inherited = Some((item_kind.as_str(), api_version.as_str())).filter(|_| !item_kind.is_empty());
        return read_items(file, tree, inherited, contents);
    }
    match Kind::ALL.into_iter().find(|known| known.name() == kind && known.api_version() == api_version) {
        Some(kind) => match read_object(file, kind, tree) {
            Ok(manifest) => contents.objects.push(Arc::new(manifest)),
            Err(conditions) => {
                contents.policies_lost += usize::from(kind.restricts());
                contents.conditions.extend(conditions);
            }
        },
        None => {
            let (severity, problem, remedy) = unknown_kind(kind, api_version);
            contents.policies_lost += usize::from(severity == Severity::Mistake);
            let name = tree.text(&["metadata", "name"]).unwrap_or_default();
            let field = if problem.starts_with("there is no kind") { "kind" } else { "apiVersion" };
            let mut condition = mistake(tree.line_of(field), field, problem, remedy);
            condition.severity = severity;
            condition.object = format!("{} {name}", short(kind));
            contents.conditions.push(condition);
        }
    }
}

fn read_items(file: &Arc<Path>, tree: Node, item_kind: Option<(&str, &str)>, contents: &mut Contents) {
    let Value::Fields(fields) = tree.value else { return };
    let items = fields.into_iter().find(|field| field.key == "items").map(|field| field.value);
    match items.map(|items| (items.line, items.value)) {
        Some((_, Value::List(items))) => items.into_iter().for_each(|item| read_tree(file, item, item_kind, contents)),
        None | Some((_, Value::Null)) => {}
        Some((line, _)) => {
            contents.policies_lost += 1;
            contents.conditions.push(Condition {
                severity: Severity::Mistake,
                place: Place { file: file.clone(), line },
                object: "List".to_owned(),
                field: "items".to_owned(),
                problem: "not a list".to_owned(),
                remedy: "write one object after each '- '".to_owned(),
            });
        }
    }
}

/// A kind that is not ours is left alone; one that was meant to be ours is a mistake.
fn unknown_kind(kind: &str, api_version: &str) -> (Severity, String, &'static str) {
    let group = API_VERSION.split('/').next().unwrap_or(API_VERSION);
    let ours = [Kind::MeshPolicy, Kind::AuthorizationPolicy].iter().any(|ours| ours.name() == kind);
    let (kind, api_version) = (short(kind), short(api_version));
    if api_version.split('/').next() == Some(group) {
        let problem = match ours {
            true => format!("there is no {kind} in {api_version}"),
            false => format!("there is no kind {kind} in {group}"),
        };
        return (
            Severity::Mistake,
            problem,
            "write apiVersion heddle.dev/v1alpha1 and kind MeshPolicy or AuthorizationPolicy",
        );
    }
    (Severity::Note, format!("{api_version} {kind} is not used by the mesh"), "")
}

fn short(text: &str) -> String {
    text.chars().filter(|one| !one.is_control()).take(64).collect()
}

/// Reads an object of a known kind.
fn read_object(file: &Arc<Path>, kind: Kind, tree: Node) -> Result<Manifest, Vec<Condition>> {
    let (name, namespace) = names(file, kind, &tree)?;
    let origin = Origin { file: file.clone(), kind, namespace, name, tree };
    let object = match kind {
        Kind::Namespace => Object::Namespace(Box::new(typed(&origin)?)),
        Kind::Pod => Object::Pod(Box::new(typed(&origin)?)),
        Kind::Service => Object::Service(Box::new(typed(&origin)?)),
        Kind::EndpointSlice => Object::EndpointSlice(Box::new(typed(&origin)?)),
        Kind::ServiceAccount => Object::ServiceAccount(Box::new(typed(&origin)?)),
        Kind::Node => Object::Node(Box::new(typed(&origin)?)),
        Kind::MeshPolicy => {
            let created = own_metadata(&origin)?.creation_timestamp.map(|time| time.0.as_second());
            let policy = MeshPolicy::read(spec(&origin)?, created).map_err(|problems| placed(&origin, problems))?;
            Object::MeshPolicy(Box::new(policy))
        }
        Kind::AuthorizationPolicy => {
            own_metadata(&origin)?;
            let policy = AuthorizationPolicy::read(spec(&origin)?).map_err(|problems| placed(&origin, problems))?;
            Object::AuthorizationPolicy(Box::new(policy))
        }
    };
    Ok(Manifest { origin, object })
}

/// Name and namespace, which everything else is reported under.
fn names(file: &Arc<Path>, kind: Kind, tree: &Node) -> Result<(Arc<str>, Arc<str>), Vec<Condition>> {
    let name = tree.text(&["metadata", "name"]);
    let namespace = tree.text(&["metadata", "namespace"]);
    let parts: Vec<String> = [namespace, name].into_iter().flatten().map(short).collect();
    let title = format!("{} {}", kind.name(), parts.join("/"));
    let mut conditions = Vec::new();
    let mut check = |field: &str, value: Option<&str>| {
        let (problem, remedy) = match value {
            Some(value) if is_name(value) => return,
            Some(value) => (
                format!("{} is no name of a Kubernetes object", quoted(value)),
                "use at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends",
            ),
            None => {
                ("missing, or not a text".to_owned(), "give the object a name and a namespace; put numbers in quotes")
            }
        };
        conditions.push(Condition {
            severity: Severity::Mistake,
            place: Place { file: file.clone(), line: tree.line_of(field) },
            object: title.clone(),
            field: field.to_owned(),
            problem,
            remedy: remedy.to_owned(),
        });
    };
    check("metadata.name", name);
    if kind.namespaced() {
        check("metadata.namespace", namespace);
    }
    match conditions.is_empty() {
        true => {
            Ok((name.unwrap_or_default().into(), namespace.filter(|_| kind.namespaced()).unwrap_or_default().into()))
        }
        false => Err(conditions),
    }
}

/// A DNS subdomain (RFC 1123), which Kubernetes wants for names. None can hold the `_` of our own policies' names.
fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        && edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
}

fn typed<T: DeserializeOwned>(origin: &Origin) -> Result<T, Vec<Condition>> {
    yaml::read(&origin.tree).map_err(|error| vec![type_mistake(origin, error)])
}

/// The spec of one of our own kinds, whose other fields must be those of every object.
fn spec<T: DeserializeOwned + Default>(origin: &Origin) -> Result<T, Vec<Condition>> {
    if let Value::Fields(fields) = &origin.tree.value {
        let known = ["apiVersion", "kind", "metadata", "spec", "status"];
        if let Some(field) = fields.iter().find(|field| !known.contains(&field.key.as_str())) {
            let problem = format!("unknown field {}", quoted(&field.key));
            return Err(vec![origin.condition(
                Severity::Mistake,
                &yaml::join("", &field.key),
                problem,
                "move it below spec",
            )]);
        }
    }
    match origin.tree.field("spec") {
        Some(field) if field.value.value != Value::Null => yaml::read(&field.value).map_err(|mut error| {
            let rest = std::mem::take(&mut error.field);
            error.field =
                if rest.starts_with('[') || rest.is_empty() { format!("spec{rest}") } else { format!("spec.{rest}") };
            vec![type_mistake(origin, error)]
        }),
        _ => Ok(T::default()),
    }
}

fn own_metadata(origin: &Origin) -> Result<ObjectMeta, Vec<Condition>> {
    match origin.tree.field("metadata") {
        Some(field) => yaml::read(&field.value).map_err(|mut error| {
            error.field = format!("metadata.{}", error.field);
            vec![type_mistake(origin, error)]
        }),
        None => Ok(ObjectMeta::default()),
    }
}

fn type_mistake(origin: &Origin, error: yaml::TypeError) -> Condition {
    let mut problem = error.problem.replace("invalid type: unit value", "nothing is written");
    for number in ["i32", "i64", "u16", "u32"] {
        problem = problem.replace(&format!("expected {number}"), "expected a whole number");
    }
    let remedy = match problem.as_str() {
        text if text.starts_with("unknown field") => "correct its name or its indentation, or remove it",
        text if text.starts_with("unknown variant") => "use one of the values that are expected",
        text if text.contains("expected a string") => "put the value in quotes",
        text if text.starts_with("missing field") => "add the field",
        _ => "write a value of the type that is expected",
    };
    Condition {
        severity: Severity::Mistake,
        place: Place { file: origin.file.clone(), line: error.line },
        object: origin.title(),
        field: error.field,
        problem: problem.chars().take(PROBLEM_CHARS_MAX).collect(),
        remedy: remedy.to_owned(),
    }
}

fn placed(origin: &Origin, problems: Vec<Problem>) -> Vec<Condition> {
    let placed = problems.into_iter();
    placed.map(|one| origin.condition(Severity::Mistake, &one.field, one.problem, &one.remedy)).collect()
}

/// Longest text of a type error: it may quote what was written.
const PROBLEM_CHARS_MAX: usize = 400;

#[cfg(test)]
mod tests;
