//! Our table as the kernel has it.

use super::{
    batch::{NFTA_RULE_EXPRESSIONS, SET_ELEM_INTERVAL_END, header, table_name},
    elements::{Declaration, Element},
    message::{NetlinkError, dump},
};
use netlink_bindings::{
    nftables as nf,
    traits::NetlinkRequest,
    utils::{IterableChunks, find_attr},
};
use std::{collections::BTreeMap, ffi::CStr};

/// The table.
#[derive(Debug, Default)]
pub struct FoundTable {
    /// Its flags; 0 unless somebody switched it off.
    pub flags: u32,
    /// Its sets, by name.
    pub sets: BTreeMap<String, FoundSet>,
    /// Its chains, by name.
    pub chains: BTreeMap<String, FoundChain>,
}

/// A set.
#[derive(Debug)]
pub struct FoundSet {
    /// How it is declared.
    pub declaration: Declaration,
    /// What it holds.
    pub elements: Vec<Element>,
}

/// A chain.
#[derive(Debug, Default)]
pub struct FoundChain {
    /// Where the kernel enters it.
    pub base: Option<FoundBase>,
    /// Its rules, in order.
    pub rules: Vec<FoundRule>,
}

/// Where the kernel enters a chain.
#[derive(Debug, PartialEq, Eq)]
pub struct FoundBase {
    /// Number of the hook.
    pub hook: u32,
    /// Place among the chains of that hook.
    pub priority: i32,
    /// Type of the chain.
    pub kind: String,
    /// What becomes of a packet at its end.
    pub policy: u32,
}

/// A rule: its expressions, raw, because the bindings skip those that they do not know.
pub type FoundRule = Vec<FoundExpression>;

/// An expression.
#[derive(Debug)]
pub struct FoundExpression {
    /// The kernel's name for it, with a zero at its end.
    pub name: Vec<u8>,
    /// Its attributes.
    pub attributes: Vec<u8>,
}

/// Reads our table, if it is there.
///
/// # Errors
/// When the kernel does not tell.
pub fn table() -> Result<Option<FoundTable>, NetlinkError> {
    let mut found = None;
    dump(&nf::Request::new().op_gettable_dump(&header()), "the list of tables", |payload| {
        let (_, attributes) = nf::OpGettableDump::decode_reply(payload);
        if attributes.get_name().ok() == Some(&table_name()) {
            found = Some(FoundTable { flags: attributes.get_flags().unwrap_or_default(), ..FoundTable::default() });
        }
    })?;
    let Some(mut found) = found else { return Ok(None) };
    chains(&mut found)?;
    rules(&mut found)?;
    sets(&mut found)?;
    for (name, set) in &mut found.sets {
        set.elements = elements(name)?;
    }
    Ok(Some(found))
}

fn chains(found: &mut FoundTable) -> Result<(), NetlinkError> {
    dump(&nf::Request::new().op_getchain_dump(&header()), "the list of chains", |payload| {
        let (_, attributes) = nf::OpGetchainDump::decode_reply(payload);
        if attributes.get_table().ok() != Some(&table_name()) {
            return;
        }
        let base = attributes.get_hook().ok().map(|hook| FoundBase {
            hook: hook.get_num().unwrap_or(u32::MAX),
            priority: hook.get_priority().unwrap_or_default(),
            kind: text(attributes.get_type().unwrap_or_default()),
            policy: attributes.get_policy().unwrap_or(u32::MAX),
        });
        let name = text(attributes.get_name().unwrap_or_default());
        found.chains.insert(name, FoundChain { base, rules: Vec::new() });
    })
}

fn rules(found: &mut FoundTable) -> Result<(), NetlinkError> {
    let mut request = nf::Request::new().op_getrule_dump(&header());
    request.encode().push_table(&table_name());
    dump(&request, "the list of rules", |payload| {
        let (_, attributes) = nf::OpGetruleDump::decode_reply(payload);
        if attributes.get_table().ok() != Some(&table_name()) {
            return;
        }
        let name = text(attributes.get_chain().unwrap_or_default());
        let list = find_attr(attributes.get_buf(), NFTA_RULE_EXPRESSIONS).unwrap_or_default();
        found.chains.entry(name).or_default().rules.push(expressions(list));
    })
}

fn expressions(list: &[u8]) -> FoundRule {
    let part = |expression, kind| find_attr(expression, kind).unwrap_or_default().to_vec();
    IterableChunks::new(list)
        .map(|(_, expression)| FoundExpression { name: part(expression, 1), attributes: part(expression, 2) })
        .collect()
}

fn sets(found: &mut FoundTable) -> Result<(), NetlinkError> {
    let mut request = nf::Request::new().op_getset_dump(&header());
    request.encode().push_table(&table_name());
    dump(&request, "the list of sets", |payload| {
        let (_, attributes) = nf::OpGetsetDump::decode_reply(payload);
        if attributes.get_table().ok() != Some(&table_name()) {
            return;
        }
        let declaration = Declaration {
            key_type: attributes.get_key_type().unwrap_or_default(),
            key_bytes: attributes.get_key_len().unwrap_or_default(),
            flags: attributes.get_flags().unwrap_or_default(),
            elements_max: attributes.get_desc().and_then(|description| description.get_size()).ok(),
            // Big-endian on the wire, host order in the bindings.
            timeout_ms: attributes.get_timeout().ok().map(u64::from_be),
        };
        let name = text(attributes.get_name().unwrap_or_default());
        found.sets.insert(name, FoundSet { declaration, elements: Vec::new() });
    })
}

fn elements(set: &str) -> Result<Vec<Element>, NetlinkError> {
    let mut request = nf::Request::new().op_getsetelem_dump(&header());
    request.encode().push_table(&table_name()).push_set(&super::batch::c_string(set));
    let mut elements = Vec::new();
    dump(&request, "the elements of a set", |payload| {
        let (_, attributes) = nf::OpGetsetelemDump::decode_reply(payload);
        for element in attributes.get_elements().into_iter().flat_map(|list| list.get_elem()) {
            let key = element.get_key().and_then(|key| key.get_value()).unwrap_or_default().to_vec();
            let ends_interval = element.get_flags().is_ok_and(|flags| flags == SET_ELEM_INTERVAL_END.to_be_bytes());
            elements.push(Element { key, ends_interval });
        }
    })?;
    Ok(elements)
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
