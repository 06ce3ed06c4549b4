//! YAML as a tree that remembers the line of every value, so that a mistake can be shown where it was made.
//!
//! Invariant: whatever the bytes are, reading ends with a tree or an error. Depth, node count and what aliases may blow
//! up to are bounded.

mod parse;
mod typed;

pub use parse::{Document, SyntaxError, documents, parse};
pub use typed::{TypeError, read};

/// One value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line in the file, counted from 1.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// What YAML can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that fits.
    Unsigned(u64),
    /// A negative whole number that fits.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Fields in the order of the file.
    Fields(Vec<Field>),
}

/// One entry of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its key.
    pub key: String,
    /// The line of the key.
    pub line: u32,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The field of this name, when this is a mapping that has it.
    pub fn field(&self, key: &str) -> Option<&Field> {
        match &self.value {
            Value::Fields(fields) => fields.iter().find(|field| field.key == key),
            _ => None,
        }
    }

    /// The text at a path of fields.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        let mut node = self;
        for key in path {
            node = &node.field(key)?.value;
        }
        match &node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of the value at `path` (`spec.ports[0].targetPort`), or of the nearest value above it that is there.
    pub fn line_of(&self, path: &str) -> u32 {
        let mut line = self.line;
        let mut node = self;
        for step in steps(path) {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Fields(_)) => node.field(key).map(|field| (field.line, &field.value)),
                (Step::Index(at), Value::List(items)) => items.get(at).map(|item| (item.line, item)),
                (Step::Key(_) | Step::Index(_), _) => None,
            };
            let Some((line_of_next, next)) = next else { break };
            (line, node) = (line_of_next, next);
        }
        line
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Splits `a.b[0].c`; keys that hold dots or brackets themselves are written `["…"]`.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some((key, after)) = rest.strip_prefix("[\"").and_then(|rest| rest.split_once("\"]")) {
            rest = after;
            return Some(Step::Key(key));
        }
        if let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            rest = after;
            return index.parse().ok().map(Step::Index);
        }
        let (key, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
        rest = after;
        Some(Step::Key(key))
    })
}

/// Appends a key to a path, in brackets when it would be ambiguous.
pub fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.contains(['.', '[', ']', '"', '/'])) {
        (_, true) => format!("{path}[\"{}\"]", key.replace('"', "'")),
        (true, false) => key.to_owned(),
        (false, false) => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests;
