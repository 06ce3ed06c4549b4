//! Trees to typed values: a serde deserializer whose errors know the field and the line.

use super::{Field, Node, Value, join};
use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor,
    },
    forward_to_deserialize_any,
};
use std::fmt;

/// Reads a tree as a typed value.
///
/// # Errors
/// The first field that does not fit its type.
pub fn read<T: DeserializeOwned>(node: &Node) -> Result<T, TypeError> {
    T::deserialize(At(node)).map_err(|error| error.or_line(node.line))
}

/// A value that does not fit its field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeError {
    /// Path of the field; empty for the whole document.
    pub field: String,
    /// Line in the file, counted from 1.
    pub line: u32,
    /// What was met and what is expected.
    pub problem: String,
}

impl TypeError {
    fn or_line(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }

    fn below_key(mut self, key: &str) -> Self {
        let rest = std::mem::take(&mut self.field);
        self.field = join("", key);
        self.append(&rest)
    }

    fn below_index(mut self, at: usize) -> Self {
        let rest = std::mem::take(&mut self.field);
        self.field = format!("[{at}]");
        self.append(&rest)
    }

    fn append(mut self, rest: &str) -> Self {
        if !rest.is_empty() && !rest.starts_with('[') {
            self.field.push('.');
        }
        self.field.push_str(rest);
        self
    }
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { field: String::new(), line: 0, problem: problem.to_string() }
    }
}

/// A node to be read. Errors get the line of the innermost node and the path that led to it.
struct At<'a>(&'a Node);

impl<'de, 'a: 'de> Deserializer<'de> for At<'a> {
    type Error = TypeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        let read = match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items { items, at: 0 }),
            Value::Fields(fields) => visitor.visit_map(Entries { fields, at: 0 }),
        };
        read.map_err(|error| error.or_line(self.0.line))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        let read = match &self.0.value {
            Value::Text(text) => visitor.visit_enum(Named(text)),
            other => Err(de::Error::invalid_type(unexpected(other), &"a name")),
        };
        read.map_err(|error| error.or_line(self.0.line))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Unsigned(value) => Unexpected::Unsigned(*value),
        Value::Signed(value) => Unexpected::Signed(*value),
        Value::Float(value) => Unexpected::Float(*value),
        Value::Text(text) => Unexpected::Str(text),
        Value::List(_) => Unexpected::Seq,
        Value::Fields(_) => Unexpected::Map,
    }
}

struct Items<'a> {
    items: &'a [Node],
    at: usize,
}

impl<'de, 'a: 'de> SeqAccess<'de> for Items<'a> {
    type Error = TypeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TypeError> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        let read = seed.deserialize(At(item)).map_err(|error| error.or_line(item.line).below_index(self.at))?;
        self.at += 1;
        Ok(Some(read))
    }
}

struct Entries<'a> {
    fields: &'a [Field],
    at: usize,
}

impl<'de, 'a: 'de> MapAccess<'de> for Entries<'a> {
    type Error = TypeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypeError> {
        let Some(field) = self.fields.get(self.at) else { return Ok(None) };
        let key: de::value::BorrowedStrDeserializer<'_, TypeError> =
            de::value::BorrowedStrDeserializer::new(&field.key);
        let key = seed.deserialize(key).map_err(|error| error.or_line(field.line).below_key(&field.key))?;
        Ok(Some(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, TypeError> {
        let field = self.fields.get(self.at).ok_or_else(|| de::Error::custom("no value"))?;
        self.at += 1;
        // The line of the key: that is where the author looks, also when the value is a block below it.
        let line = match field.value.value {
            Value::List(_) | Value::Fields(_) => field.line,
            _ => field.value.line,
        };
        seed.deserialize(At(&field.value)).map_err(|error| error.or_line(line).below_key(&field.key))
    }
}

/// An enum variant without content.
struct Named<'a>(&'a str);

impl<'de> EnumAccess<'de> for Named<'_> {
    type Error = TypeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), TypeError> {
        Ok((seed.deserialize(self.0.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for Named<'_> {
    type Error = TypeError;

    fn unit_variant(self) -> Result<(), TypeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, TypeError> {
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &"a variant with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, TypeError> {
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &"a variant with content"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, TypeError> {
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &"a variant with content"))
    }
}
