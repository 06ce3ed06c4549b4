//! Netlink attributes as values: written into a message, and compared with what the kernel gives back.

use netlink_bindings::utils::{IterableChunks, align, finalize_nested_header, push_header, push_nested_header};

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    Nested(Vec<Attribute>),
}

impl Attribute {
    /// A number, big-endian as nf_tables wants it.
    pub fn number(kind: u16, number: u32) -> Self {
        Self::bytes(kind, number.to_be_bytes())
    }

    /// A signed number, big-endian.
    pub fn signed(kind: u16, number: i32) -> Self {
        Self::bytes(kind, number.to_be_bytes())
    }

    /// A name, which the kernel wants to end in a zero.
    pub fn name(kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        Self::bytes(kind, bytes)
    }

    /// Bytes as they are. At most a few hundred: an attribute's length is 16 bits.
    pub fn bytes(kind: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: Value::Bytes(bytes.into()) }
    }

    /// Attributes inside an attribute.
    pub fn nested(kind: u16, attributes: impl Into<Vec<Self>>) -> Self {
        Self { kind, value: Value::Nested(attributes.into()) }
    }

    /// Writes it at the end of a message.
    pub fn push(&self, message: &mut Vec<u8>) {
        match &self.value {
            Value::Bytes(bytes) => {
                let length = u16::try_from(bytes.len()).expect("an attribute of ours has at most a few hundred bytes");
                push_header(message, self.kind, length);
                message.extend(bytes);
                align(message);
            }
            Value::Nested(attributes) => {
                let header = push_nested_header(message, self.kind);
                attributes.iter().for_each(|attribute| attribute.push(message));
                finalize_nested_header(message, header);
            }
        }
    }

    fn equals(&self, raw: &[u8]) -> bool {
        match &self.value {
            Value::Bytes(bytes) => bytes == raw,
            Value::Nested(attributes) => equal(attributes, raw),
        }
    }
}

/// Whether the kernel's attributes say what the planned ones do: each planned one is there with the same value, and what
/// the kernel adds is zero, its way to spell a default. (A planned `@set` has no flags; the kernel's `!= @set` has flag 1.)
pub fn equal(planned: &[Attribute], raw: &[u8]) -> bool {
    let is_there = |attribute: &Attribute| {
        IterableChunks::new(raw).any(|(header, value)| header.r#type == attribute.kind && attribute.equals(value))
    };
    let is_planned = |kind| planned.iter().any(|attribute| attribute.kind == kind);
    planned.iter().all(is_there)
        && IterableChunks::new(raw)
            .all(|(header, value)| is_planned(header.r#type) || value.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(attributes: &[Attribute]) -> Vec<u8> {
        let mut message = Vec::new();
        attributes.iter().for_each(|attribute| attribute.push(&mut message));
        message
    }

    #[test]
    fn what_the_kernel_adds_must_be_zero() {
        let planned = [Attribute::name(1, "in_ports"), Attribute::nested(2, [Attribute::number(1, 7)])];
        assert!(equal(&planned, &raw(&planned)));
        let default = [&planned[..], &[Attribute::number(5, 0)]].concat();
        assert!(equal(&planned, &raw(&default)));
        let inverted = [&planned[..], &[Attribute::number(5, 1)]].concat();
        assert!(!equal(&planned, &raw(&inverted)));
    }

    #[test]
    fn a_planned_attribute_must_be_there_as_it_was_planned() {
        let planned = [Attribute::nested(2, [Attribute::number(1, 7)])];
        assert!(!equal(&planned, &raw(&[])));
        assert!(!equal(&planned, &raw(&[Attribute::nested(2, [Attribute::number(1, 8)])])));
    }
}
