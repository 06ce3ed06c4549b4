//! Text to trees: splits a file into documents and reads each by itself, so that one broken document hides no other.

use super::{Field, Node, Value};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use std::fmt;

/// One document of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its text, with its `---` line.
    pub text: &'a str,
    /// Lines of the file before it.
    pub lines_before: u32,
}

/// Why a document is no YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct SyntaxError {
    /// Line in the file, counted from 1.
    pub line: u32,
    /// What the parser met.
    pub problem: String,
}

/// Splits a file at its document markers: `---` at the start of a line, which YAML 1.2.2, section 9.1.2, forbids inside of
/// any value. Documents that hold nothing but comments are left out.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut at = 0;
    for (line, number) in text.split_inclusive('\n').zip(0_u32..) {
        if is_marker(line) && at > start && !is_blank(&text[start..at], true) {
            found.push(Document { text: &text[start..at], lines_before });
            (start, lines_before) = (at, number);
        } else if is_marker(line) && !is_directive_only(&text[start..at]) {
            (start, lines_before) = (at, number);
        }
        at += line.len();
    }
    found.push(Document { text: &text[start..], lines_before });
    found.retain(|document| !is_blank(document.text, false));
    found
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether there is nothing but markers, comments and, if `directives`, `%` lines.
fn is_blank(text: &str, directives: bool) -> bool {
    text.lines().all(|line| {
        let line = line.strip_prefix("---").or_else(|| line.strip_prefix("...")).unwrap_or(line).trim();
        line.is_empty() || line.starts_with('#') || (directives && line.starts_with('%'))
    })
}

fn is_directive_only(text: &str) -> bool {
    text.lines().any(|line| line.starts_with('%')) && is_blank(text, true)
}

/// Reads one document.
///
/// # Errors
/// The first thing that is no YAML, or that passes a bound of this module.
pub fn parse(document: Document<'_>) -> Result<Node, SyntaxError> {
    let at = |line: u32| document.lines_before.saturating_add(line.max(1));
    let unusable =
        document.text.chars().position(|one| one.is_control() && !matches!(one, '\n' | '\r' | '\t' | '\u{85}'));
    if let Some(position) = unusable {
        let line = document.text.chars().take(position).filter(|one| *one == '\n').count();
        let line = u32::try_from(line).unwrap_or(u32::MAX).saturating_add(1);
        return Err(SyntaxError { line: at(line), problem: "a control character: this is not a text file".to_owned() });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_recorded_anchor_events: NODES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_EVENTS_MAX },
        with_snippet: false,
        emit_comments: false,
        leading_zero_numbers_as_strings: true,
        strict_booleans: true,
    };
    let tree: Result<Positioned, serde_saphyr::Error> = serde_saphyr::from_str_with_options(document.text, options);
    match tree {
        Ok(Positioned(mut node)) => {
            shift(&mut node, document.lines_before);
            Ok(node)
        }
        Err(error) => {
            let line = error.location().map_or(1, |location| u32::try_from(location.line()).unwrap_or(u32::MAX));
            // The parser counts lines from the start of the document, and we say the line of the file.
            let problem = error.to_string();
            let problem = problem.split_once(" at line ").map_or(problem.as_str(), |(problem, _)| problem);
            Err(SyntaxError { line: at(line), problem: problem.to_owned() })
        }
    }
}

/// Makes the lines of a document lines of its file.
fn shift(node: &mut Node, lines_before: u32) {
    node.line = node.line.saturating_add(lines_before);
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, lines_before)),
        Value::Fields(fields) => fields.iter_mut().for_each(|field| {
            field.line = field.line.saturating_add(lines_before);
            shift(&mut field.value, lines_before);
        }),
        Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

/// A node whose lines count from the start of its document.
struct Positioned(Node);

impl<'de> Deserialize<'de> for Positioned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Untyped>::deserialize(deserializer)?;
        let line = u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX);
        Ok(Self(Node { line, value: spanned.value.0 }))
    }
}

struct Untyped(Value);

impl<'de> Deserialize<'de> for Untyped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    // Numbers beyond 64 bits keep their size, if not their last digits: no field of ours takes one.
    #[expect(clippy::cast_precision_loss, reason = "only its being too large matters")]
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "only its being too large matters")]
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Text(String::from_utf8_lossy(value).into_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Positioned(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields: Vec<Field> = Vec::new();
        while let Some(Positioned(key)) = entries.next_key()? {
            let name = match key.value {
                Value::Text(text) => text,
                Value::Bool(value) => value.to_string(),
                Value::Unsigned(value) => value.to_string(),
                Value::Signed(value) => value.to_string(),
                Value::Float(_) | Value::Null | Value::List(_) | Value::Fields(_) => {
                    return Err(A::Error::custom("the key of a field must be a text"));
                }
            };
            let Positioned(value) = entries.next_value()?;
            fields.push(Field { key: name, line: key.line, value });
        }
        Ok(Value::Fields(fields))
    }
}

/// Deepest nesting of a document. Kubernetes objects stay below 30; the parser takes some 30 KiB of stack a level when it
/// is not optimised, and a thread has 2 MiB.
const DEPTH_MAX: usize = 40;

/// Most values in a document: a `kubectl get -A -o yaml` of some ten thousand pods.
const NODES_MAX: usize = 10_000_000;

/// Most values that aliases may add to a document.
const REPLAYED_EVENTS_MAX: usize = 100_000;
