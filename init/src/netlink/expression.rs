//! Rules as the expressions that the kernel runs. A match loads a value into register 1 and compares it there; a match on
//! a transport header first makes sure of the protocol, once a rule. Numbers are from linux/netfilter/nf_tables.h.

use super::attribute::{Attribute, equal};
use crate::plan::table::{Family, Layer4, Match, Rule, Side, Statement, Way};
use std::net::IpAddr;

/// One expression: its name and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// The kernel's name for it.
    pub name: &'static str,
    attributes: Vec<Attribute>,
}

/// The expressions of a rule.
pub fn expressions(rule: &Rule) -> Vec<Expression> {
    let mut program = Program::default();
    rule.matches.iter().for_each(|condition| program.condition(condition));
    rule.statements.iter().for_each(|statement| program.statement(statement));
    program.expressions
}

impl Expression {
    /// Writes it as an element of a rule's list.
    pub fn push(&self, message: &mut Vec<u8>) {
        let attributes = Attribute::nested(NFTA_EXPR_DATA, self.attributes.clone());
        Attribute::nested(NFTA_LIST_ELEM, [Attribute::name(NFTA_EXPR_NAME, self.name), attributes]).push(message);
    }

    /// Whether the kernel's expression does the same.
    pub fn equals(&self, name: &[u8], attributes: &[u8]) -> bool {
        name.strip_suffix(&[0]) == Some(self.name.as_bytes()) && equal(&self.attributes, attributes)
    }
}

/// A rule under construction.
#[derive(Default)]
struct Program {
    expressions: Vec<Expression>,
    layer4: Option<Layer4>,
}

impl Program {
    fn condition(&mut self, condition: &Match) {
        match condition {
            Match::InterfaceIn(name) => self.meta_is(META_IIFNAME, interface_key(name)),
            Match::NotInterfaceOut(name) => self.meta_is_not(META_OIFNAME, interface_key(name)),
            Match::InterfaceInSet(way, set) => {
                self.meta(match way {
                    Way::In => META_IIFNAME,
                    Way::Out => META_OIFNAME,
                });
                self.look_up(set);
            }
            Match::Protocol(protocol) => self.protocol(*protocol),
            Match::NotProtocol(protocol) => self.meta_is_not(META_L4PROTO, [protocol_number(*protocol)]),
            Match::ToLoopback4 => {
                self.family(Family::Ip4);
                self.load(NETWORK, 16, 1, REGISTER_1);
                self.compare(EQUAL, [127]);
            }
            Match::ToAddress(address) => {
                let (family, bytes) = match address {
                    IpAddr::V4(address) => (Family::Ip4, address.octets().to_vec()),
                    IpAddr::V6(address) => (Family::Ip6, address.octets().to_vec()),
                };
                self.address(family, Side::Destination);
                self.compare(EQUAL, bytes);
            }
            Match::AddressInSet(family, side, set) => {
                self.address(*family, *side);
                self.look_up(set);
            }
            Match::ToPort(protocol, port) => {
                self.protocol(*protocol);
                self.load(TRANSPORT, 2, 2, REGISTER_1);
                self.compare(EQUAL, port.to_be_bytes());
            }
            Match::PortInSet(side, set) => {
                self.protocol(Layer4::Tcp);
                self.load(TRANSPORT, port_offset(*side), 2, REGISTER_1);
                self.look_up(set);
            }
            Match::Opens => self.tcp_flags(SYN | ACK, EQUAL, SYN),
            Match::NotOpens => self.tcp_flags(SYN | ACK, NOT_EQUAL, SYN),
            Match::Refuses => self.tcp_flags(RST | ACK, EQUAL, RST | ACK),
            Match::ToRefused(family, set) => {
                self.endpoint(*family, Side::Destination);
                self.look_up(set);
            }
            // Marks and address types are in host order.
            Match::Mark(mark) => self.meta_is(META_MARK, mark.to_ne_bytes()),
            Match::NotMark(mark) => self.meta_is_not(META_MARK, mark.to_ne_bytes()),
            Match::ConntrackMark(mark) => self.conntrack_is(CT_MARK, mark.to_ne_bytes()),
            Match::ConntrackReply => self.conntrack_is(CT_DIRECTION, [IP_CT_DIR_REPLY]),
            Match::TransparentSocket => {
                self.push("socket", [Attribute::number(1, SOCKET_TRANSPARENT), Attribute::number(2, REGISTER_1)]);
                self.compare(EQUAL, [1]);
            }
            Match::ToLocal => {
                let (result, flags) = (Attribute::number(2, FIB_RESULT_ADDRTYPE), Attribute::number(3, FIB_F_DADDR));
                self.push("fib", [Attribute::number(1, REGISTER_1), result, flags]);
                self.compare(EQUAL, RTN_LOCAL.to_ne_bytes());
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Remember(family, set) => {
                self.endpoint(*family, Side::Source);
                let (operation, key) = (Attribute::number(3, DYNSET_OP_UPDATE), Attribute::number(4, REGISTER_1));
                self.push("dynset", [Attribute::name(1, set), operation, key]);
            }
            Statement::SetMark(mark) => {
                self.immediate(mark.to_ne_bytes());
                self.push("meta", [Attribute::number(2, META_MARK), Attribute::number(3, REGISTER_1)]);
            }
            Statement::SetConntrackMark(mark) => {
                self.immediate(mark.to_ne_bytes());
                self.push("ct", [Attribute::number(2, CT_MARK), Attribute::number(4, REGISTER_1)]);
            }
            Statement::Tproxy(port) => {
                self.immediate(port.to_be_bytes());
                // Family 0: the packet's own.
                self.push("tproxy", [Attribute::number(1, 0), Attribute::number(3, REGISTER_1)]);
            }
            Statement::RejectReset => {
                self.protocol(Layer4::Tcp);
                self.push("reject", [Attribute::number(1, REJECT_TCP_RST)]);
            }
            Statement::RejectUnreachable => {
                let code = Attribute::bytes(2, [REJECT_ICMPX_PORT_UNREACH]);
                self.push("reject", [Attribute::number(1, REJECT_ICMPX_UNREACH), code]);
            }
            Statement::Accept => self.verdict(NF_ACCEPT, None),
            Statement::Drop => self.verdict(NF_DROP, None),
            Statement::Return => self.verdict(NFT_RETURN, None),
            Statement::Jump(chain) => self.verdict(NFT_JUMP, Some(chain)),
        }
    }

    fn push(&mut self, name: &'static str, attributes: impl Into<Vec<Attribute>>) {
        self.expressions.push(Expression { name, attributes: attributes.into() });
    }

    fn protocol(&mut self, protocol: Layer4) {
        if self.layer4 != Some(protocol) {
            self.layer4 = Some(protocol);
            self.meta_is(META_L4PROTO, [protocol_number(protocol)]);
        }
    }

    fn family(&mut self, family: Family) {
        let number = match family {
            Family::Ip4 => NFPROTO_IPV4,
            Family::Ip6 => NFPROTO_IPV6,
        };
        self.meta_is(META_NFPROTO, [number]);
    }

    fn address(&mut self, family: Family, side: Side) {
        self.family(family);
        let (offset, length) = match (family, side) {
            (Family::Ip4, Side::Source) => (12, 4),
            (Family::Ip4, Side::Destination) => (16, 4),
            (Family::Ip6, Side::Source) => (8, 16),
            (Family::Ip6, Side::Destination) => (24, 16),
        };
        self.load(NETWORK, offset, length, REGISTER_1);
    }

    /// Address and TCP port, one behind the other in the registers, each padded to 4 bytes.
    fn endpoint(&mut self, family: Family, side: Side) {
        self.protocol(Layer4::Tcp);
        self.address(family, side);
        let behind = match family {
            Family::Ip4 => REGISTER32_1,
            Family::Ip6 => REGISTER_2,
        };
        self.load(TRANSPORT, port_offset(side), 2, behind);
    }

    fn tcp_flags(&mut self, mask: u8, operator: u32, flags: u8) {
        self.protocol(Layer4::Tcp);
        self.load(TRANSPORT, 13, 1, REGISTER_1);
        let registers = [Attribute::number(1, REGISTER_1), Attribute::number(2, REGISTER_1), Attribute::number(3, 1)];
        self.push("bitwise", [&registers[..], &[value(4, [mask]), value(5, [0])]].concat());
        self.compare(operator, [flags]);
    }

    fn meta(&mut self, key: u32) {
        self.push("meta", [Attribute::number(1, REGISTER_1), Attribute::number(2, key)]);
    }

    fn meta_is(&mut self, key: u32, bytes: impl Into<Vec<u8>>) {
        self.meta(key);
        self.compare(EQUAL, bytes);
    }

    fn meta_is_not(&mut self, key: u32, bytes: impl Into<Vec<u8>>) {
        self.meta(key);
        self.compare(NOT_EQUAL, bytes);
    }

    fn conntrack_is(&mut self, key: u32, bytes: impl Into<Vec<u8>>) {
        self.push("ct", [Attribute::number(1, REGISTER_1), Attribute::number(2, key)]);
        self.compare(EQUAL, bytes);
    }

    fn load(&mut self, base: u32, offset: u32, length: u32, register: u32) {
        let place = [Attribute::number(2, base), Attribute::number(3, offset), Attribute::number(4, length)];
        self.push("payload", [&[Attribute::number(1, register)], &place[..]].concat());
    }

    fn compare(&mut self, operator: u32, bytes: impl Into<Vec<u8>>) {
        self.push("cmp", [Attribute::number(1, REGISTER_1), Attribute::number(2, operator), value(3, bytes)]);
    }

    fn look_up(&mut self, set: &str) {
        self.push("lookup", [Attribute::name(1, set), Attribute::number(2, REGISTER_1)]);
    }

    fn immediate(&mut self, bytes: impl Into<Vec<u8>>) {
        self.push("immediate", [Attribute::number(1, REGISTER_1), value(2, bytes)]);
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        let mut verdict = vec![Attribute::signed(1, code)];
        verdict.extend(chain.map(|chain| Attribute::name(2, chain)));
        let data = Attribute::nested(2, [Attribute::nested(NFTA_DATA_VERDICT, verdict)]);
        self.push("immediate", [Attribute::number(1, REGISTER_VERDICT), data]);
    }
}

/// An attribute that holds a value to compare with or to load.
fn value(kind: u16, bytes: impl Into<Vec<u8>>) -> Attribute {
    Attribute::nested(kind, [Attribute::bytes(NFTA_DATA_VALUE, bytes)])
}

/// An interface's name as the kernel compares it: all `IFNAMSIZ` bytes.
pub fn interface_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(IFNAMSIZ, 0);
    key
}

fn protocol_number(protocol: Layer4) -> u8 {
    match protocol {
        Layer4::Tcp => 6,
        Layer4::Udp => 17,
    }
}

fn port_offset(side: Side) -> u32 {
    match side {
        Side::Source => 0,
        Side::Destination => 2,
    }
}

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;

const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
/// The second 4 bytes of register 1 (`NFT_REG32_01`).
const REGISTER32_1: u32 = 9;

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const IP_CT_DIR_REPLY: u8 = 1;
const SOCKET_TRANSPARENT: u32 = 0;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const DYNSET_OP_UPDATE: u32 = 1;
const REJECT_TCP_RST: u32 = 1;
const REJECT_ICMPX_UNREACH: u32 = 2;
const REJECT_ICMPX_PORT_UNREACH: u8 = 1;

/// Base of a load: the IP header.
const NETWORK: u32 = 1;
/// Base of a load: the TCP or UDP header.
const TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_RETURN: i32 = -5;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const IFNAMSIZ: usize = 16;
