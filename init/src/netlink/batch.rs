//! The table as one nf_tables transaction: all of it or nothing, and never a moment without rules in between.

use super::{
    elements::{declaration, elements, note_for_nft},
    expression::{Expression, expressions},
    message::{Answer, HEADER_BYTES, NetlinkError, messages, receive, refused},
};
use crate::{
    plan::table::{Base, Chain, Set, Table},
    socket::NetlinkSocket,
};
use heddle_init_abi::TABLE;
use netlink_bindings::{
    nftables as nf,
    traits::{NetlinkChained, Pusher},
    utils::IterableChunks,
};
use std::ffi::CString;

/// Puts this table in place of ours, whether or not there is one.
///
/// # Errors
/// [`NetlinkError::Refused`] names the rule and the expression; nothing has changed then.
pub fn replace(table: &Table) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    batch.remove();
    batch.add(table);
    batch.commit()
}

/// Removes our table, whether or not there is one.
///
/// # Errors
/// When the kernel refuses; nothing has changed then.
pub fn remove() -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    batch.remove();
    batch.commit()
}

/// A transaction under construction. Part `n` describes message `n`, for errors.
struct Batch {
    messages: nf::Chained<'static>,
    parts: Vec<Part>,
}

/// What a message is about.
struct Part {
    name: String,
    expressions: Vec<Expression>,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { messages: nf::Chained::new(FIRST_SEQUENCE), parts: Vec::new() };
        batch.part("the beginning of the transaction");
        batch.messages.request().op_batch_begin_do(&batch_header());
        batch
    }

    fn part(&mut self, name: impl Into<String>) {
        self.parts.push(Part { name: name.into(), expressions: Vec::new() });
    }

    /// Adding what is then deleted works whether or not the table is there.
    fn remove(&mut self) {
        let name = table_name();
        self.part("making sure of the table");
        self.messages.request().set_create().op_newtable_do(&header()).encode().push_name(&name);
        self.part("deleting the former table");
        self.messages.request().op_deltable_do(&header()).encode().push_name(&name);
    }

    fn add(&mut self, table: &Table) {
        self.part("the table");
        self.messages.request().set_create().op_newtable_do(&header()).encode().push_name(&table_name()).push_flags(0);
        for (id, set) in (1..).zip(&table.sets) {
            self.set(id, set);
        }
        // First all chains, so that every jump finds its target.
        for chain in &table.chains {
            self.chain(chain);
        }
        for chain in &table.chains {
            self.rules(chain);
        }
    }

    fn set(&mut self, id: u32, set: &Set) {
        let (table, name) = (table_name(), c_string(set.name));
        let declared = declaration(&set.content);
        self.part(format!("set {}", set.name));
        let mut operation = self.messages.request().set_create().op_newset_do(&header());
        let mut attributes = operation.encode().push_table(&table).push_name(&name).push_flags(declared.flags);
        attributes = attributes.push_key_type(declared.key_type).push_key_len(declared.key_bytes);
        // The bindings write id and timeout in host order, the kernel reads them big-endian.
        attributes = attributes.push_id(id.to_be());
        if let Some(elements_max) = declared.elements_max {
            attributes = attributes.nested_desc().push_size(elements_max).end_nested();
        }
        if let Some(timeout_ms) = declared.timeout_ms {
            attributes = attributes.push_timeout(timeout_ms.to_be());
        }
        if let Some(note) = note_for_nft(&set.content) {
            attributes = attributes.push_userdata(&note);
        }
        drop(attributes);
        drop(operation);
        for some in elements(&set.content).chunks(ELEMENTS_PER_MESSAGE) {
            self.part(format!("elements of set {}", set.name));
            let mut operation = self.messages.request().set_create().op_newsetelem_do(&header());
            let mut list = operation.encode().push_table(&table).push_set(&name).nested_elements();
            for element in some {
                let mut one = list.nested_elem().nested_key().push_value(&element.key).end_nested();
                if element.ends_interval {
                    one = one.push_flags(&SET_ELEM_INTERVAL_END.to_be_bytes());
                }
                list = one.end_nested();
            }
        }
    }

    fn chain(&mut self, chain: &Chain) {
        let (table, name) = (table_name(), c_string(chain.name));
        self.part(format!("chain {}", chain.name));
        let mut operation = self.messages.request().set_create().op_newchain_do(&header());
        let mut attributes = operation.encode().push_table(&table).push_name(&name);
        if let Some(base) = chain.base {
            let (hook, kind) = hook_and_type(base);
            attributes = attributes.nested_hook().push_num(hook).push_priority(PRIORITY_MANGLE).end_nested();
            attributes = attributes.push_policy(NF_ACCEPT).push_type(&c_string(kind));
        }
        drop(attributes);
    }

    fn rules(&mut self, chain: &Chain) {
        let (table, name) = (table_name(), c_string(chain.name));
        for (number, rule) in (1..).zip(&chain.rules) {
            let expressions = expressions(rule);
            let mut operation = self.messages.request().set_create().set_append().op_newrule_do(&header());
            let mut list = operation.encode().push_table(&table).push_chain(&name).nested_expressions();
            expressions.iter().for_each(|expression| expression.push(list.as_vec_mut()));
            drop(list);
            drop(operation);
            let name = format!("rule {number} of chain {} (`{rule}`)", chain.name);
            self.parts.push(Part { name, expressions });
        }
    }

    fn commit(mut self) -> Result<(), NetlinkError> {
        self.messages.request().op_batch_end_do(&batch_header());
        let batch = self.messages.finalize();
        // Old kernels do not acknowledge the end, so the last message before it is the last to wait for.
        let last = FIRST_SEQUENCE + u32::try_from(self.parts.len()).expect("a batch has some hundred messages") - 1;
        let socket = NetlinkSocket::open(batch.protonum()).map_err(NetlinkError::Open)?;
        socket
            .send(batch.payload())
            .map_err(|source| NetlinkError::Send { what: "the transaction".to_owned(), source })?;
        let mut first_refusal = None;
        receive(&socket, "the transaction", |message| {
            let Some(answer) = Answer::from_message(message) else { return false };
            // When the beginning is refused, nothing else is answered.
            let is_last = answer.sequence == last || (answer.sequence == FIRST_SEQUENCE && answer.errno != 0);
            if answer.errno != 0 && first_refusal.is_none() {
                first_refusal = Some(answer);
            }
            is_last
        })?;
        // A fault that is only found at the end is repeated for every message behind it: the first one is meant.
        match first_refusal {
            None => Ok(()),
            Some(answer) => {
                let what = describe(&self.parts, batch.payload(), &answer);
                Err(refused(answer, what))
            }
        }
    }
}

/// What was refused: the message, and where it is a rule, the expression.
fn describe(parts: &[Part], batch: &[u8], answer: &Answer) -> String {
    let index = usize::try_from(answer.sequence.wrapping_sub(FIRST_SEQUENCE)).unwrap_or(usize::MAX);
    let Some(part) = parts.get(index) else { return "the end of the transaction".to_owned() };
    let expression = answer
        .offset
        .zip(messages(batch).nth(index))
        .and_then(|(offset, message)| expression_at(message.payload, offset.checked_sub(HEADER_BYTES)?))
        .and_then(|at| part.expressions.get(at).map(|expression| (at + 1, expression.name)));
    match expression {
        Some((number, name)) => format!("{}, expression {number} ({name})", part.name),
        None => part.name.clone(),
    }
}

/// Which expression of a rule's message begins at this offset of its payload.
fn expression_at(payload: &[u8], offset: usize) -> Option<usize> {
    let attributes = payload.get(GENERATION_HEADER_BYTES..)?;
    let list = IterableChunks::new(attributes).find(|(header, _)| header.r#type == NFTA_RULE_EXPRESSIONS)?.1;
    let start = |inside: &[u8]| inside.as_ptr().addr() - ATTRIBUTE_HEADER_BYTES - payload.as_ptr().addr();
    IterableChunks::new(list).position(|(_, expression)| start(expression) == offset)
}

/// The kernel's number of the hook, and the chain's type.
pub fn hook_and_type(base: Base) -> (u32, &'static str) {
    match base {
        Base::Prerouting => (0, "filter"),
        Base::Output => (3, "route"),
        Base::Postrouting => (4, "filter"),
    }
}

/// The header of every request of ours: family `inet`.
pub fn header() -> nf::Nfgenmsg {
    let mut header = nf::Nfgenmsg::new();
    header.nfgen_family = NFPROTO_INET;
    header
}

fn batch_header() -> nf::Nfgenmsg {
    let mut header = nf::Nfgenmsg::new();
    header.set_res_id(NFNL_SUBSYS_NFTABLES);
    header
}

/// The table's name for a message.
pub fn table_name() -> CString {
    c_string(TABLE)
}

/// A name of ours for a message.
pub fn c_string(name: &str) -> CString {
    CString::new(name).expect("the names of tables, sets and chains are constants without a zero byte")
}

/// Priority `mangle` (linux/netfilter_ipv4.h).
pub const PRIORITY_MANGLE: i32 = -150;
/// Policy and verdict "go on" (linux/netfilter.h).
pub const NF_ACCEPT: u32 = 1;
/// Bytes of nf_tables' own header in front of a message's attributes (`nfgenmsg`).
pub const GENERATION_HEADER_BYTES: usize = 4;
/// Attribute of a rule that lists its expressions.
pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
/// Flag of an element that ends an interval (linux/netfilter/nf_tables.h).
pub const SET_ELEM_INTERVAL_END: u32 = 1;

const NFPROTO_INET: u8 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const FIRST_SEQUENCE: u32 = 1;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// The list of a message's elements is one attribute, whose length is 16 bits; 40 bytes an element.
const ELEMENTS_PER_MESSAGE: usize = 1_000;
