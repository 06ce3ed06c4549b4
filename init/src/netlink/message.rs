//! Requests and answers: one datagram out, messages back until the last one, errors as the kernel tells them.

use crate::socket::NetlinkSocket;
use netlink_bindings::{
    traits::{NetlinkRequest, Protocol},
    utils::IterableChunks,
};
use std::io;

/// Why the kernel did not do or tell what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket to ask by.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The request could not be handed over.
    #[error("cannot send {what} to the kernel")]
    Send {
        /// The request.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No answer, or one that does not fit.
    #[error("the kernel does not answer to {what}")]
    Receive {
        /// The request.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("the kernel refuses {what}{}{}", detail(.text.as_deref()), hint(.source))]
    Refused {
        /// What it refused: a request, or a part of one.
        what: String,
        /// The error.
        source: io::Error,
        /// Its own words, where it has some.
        text: Option<String>,
    },
    /// What was asked for changed each time while the kernel told it.
    #[error("{what} changed {DUMP_TRIES_MAX} times while it was read; somebody else is writing, try again")]
    Restless {
        /// The request.
        what: String,
    },
}

/// The kernel's answer to one message.
#[derive(Debug)]
pub struct Answer {
    /// Which message of the datagram.
    pub sequence: u32,
    /// The error number (errno(3)), 0 for none.
    pub errno: i32,
    /// The kernel's own words (netlink(7), extended acknowledgement).
    pub text: Option<String>,
    /// Where in the message, in bytes from its header.
    pub offset: Option<usize>,
}

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Type of the message.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl Answer {
    /// The acknowledgement in a message, if it is one.
    pub fn from_message(message: Message<'_>) -> Option<Self> {
        if message.kind != NLMSG_ERROR {
            return None;
        }
        let errno = -i32::from_ne_bytes(*message.payload.first_chunk()?);
        let mut answer = Self { sequence: message.sequence, errno, text: None, offset: None };
        // Behind the error number comes the header of the refused message, then attributes.
        for (header, value) in IterableChunks::new(message.payload.get(4 + HEADER_BYTES..).unwrap_or_default()) {
            match header.r#type {
                NLMSGERR_ATTR_MSG => {
                    answer.text = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
                }
                NLMSGERR_ATTR_OFFS => {
                    let offset = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
                    answer.offset = offset.and_then(|offset| usize::try_from(offset).ok());
                }
                _ => {}
            }
        }
        Some(answer)
    }
}

/// Calls `each` for every message that comes, until it returns true.
///
/// # Errors
/// When none comes for two seconds. `what` names the request.
pub fn receive(
    socket: &NetlinkSocket,
    what: &str,
    mut each: impl FnMut(Message<'_>) -> bool,
) -> Result<(), NetlinkError> {
    let mut buffer = vec![0; RECEIVE_BYTES_MAX];
    loop {
        let datagram =
            socket.receive(&mut buffer).map_err(|source| NetlinkError::Receive { what: what.to_owned(), source })?;
        if messages(datagram).any(&mut each) {
            return Ok(());
        }
    }
}

/// Has one rtnetlink request carried out. `done` is an error number that means it was done already.
///
/// # Errors
/// Everything else that the kernel says. `what` names the request.
pub fn request<R: NetlinkRequest>(request: &R, done: &[i32], what: &str) -> Result<Done, NetlinkError> {
    let socket = send(request, NLM_F_ACK, what)?;
    let mut answer = None;
    receive(&socket, what, |message| {
        answer = Answer::from_message(message);
        answer.is_some()
    })?;
    match answer {
        Some(Answer { errno, .. }) if done.contains(&errno) => Ok(Done::Before),
        Some(answer) if answer.errno != 0 => Err(refused(answer, what.to_owned())),
        _ => Ok(Done::Now),
    }
}

/// Whether a request changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It did.
    Now,
    /// It was as wanted before.
    Before,
}

/// Calls `each` with the payload of everything that a dump tells, all of one moment.
///
/// # Errors
/// When the kernel refuses to tell. `what` names what is asked for.
pub fn dump<R: NetlinkRequest>(request: &R, what: &str, each: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
    for _ in 0..DUMP_TRIES_MAX {
        if let Some(payloads) = dump_once(request, what)? {
            payloads.iter().map(Vec::as_slice).for_each(each);
            return Ok(());
        }
    }
    Err(NetlinkError::Restless { what: what.to_owned() })
}

/// `None`: something changed meanwhile.
fn dump_once<R: NetlinkRequest>(request: &R, what: &str) -> Result<Option<Vec<Vec<u8>>>, NetlinkError> {
    let socket = send(request, 0, what)?;
    let (mut payloads, mut refusal, mut is_torn) = (Vec::new(), None, false);
    receive(&socket, what, |message| {
        is_torn |= message.flags & NLM_F_DUMP_INTR != 0;
        refusal = Answer::from_message(message);
        if refusal.is_some() || message.kind == NLMSG_DONE {
            return true;
        }
        payloads.push(message.payload.to_vec());
        false
    })?;
    match refusal {
        // The kernel's other way to say that the dump is torn.
        Some(answer) if answer.errno == libc::EINTR => Ok(None),
        Some(answer) if answer.errno != 0 => Err(refused(answer, what.to_owned())),
        _ => Ok((!is_torn).then_some(payloads)),
    }
}

/// The error for a refusal of `what`.
pub fn refused(answer: Answer, what: String) -> NetlinkError {
    NetlinkError::Refused { what, source: io::Error::from_raw_os_error(answer.errno), text: answer.text }
}

fn send<R: NetlinkRequest>(request: &R, flags: u16, what: &str) -> Result<NetlinkSocket, NetlinkError> {
    let Protocol::Raw { protonum, request_type } = request.protocol() else {
        unreachable!("neither nf_tables nor routing uses generic netlink");
    };
    let socket = NetlinkSocket::open(protonum).map_err(NetlinkError::Open)?;
    let flags = request.flags() | NLM_F_REQUEST | flags;
    let length = u32::try_from(HEADER_BYTES + request.payload().len()).expect("a single request is short");
    let mut datagram = length.to_ne_bytes().to_vec();
    datagram.extend(request_type.to_ne_bytes());
    datagram.extend(flags.to_ne_bytes());
    // Sequence number and port: the socket asks once, and the kernel knows it.
    datagram.extend([0; 8]);
    datagram.extend(request.payload());
    socket.send(&datagram).map_err(|source| NetlinkError::Send { what: what.to_owned(), source })?;
    Ok(socket)
}

/// The messages of a datagram; what does not hold together ends it.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        let message = datagram.get(..length)?;
        let payload = message.get(HEADER_BYTES..)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*message.get(6..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
        Some(Message { kind, flags, sequence, payload })
    })
}

fn detail(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (CAP_NET_ADMIN is needed in the user namespace that owns this network namespace)",
        Some(libc::ENOENT) => {
            " (for an expression: this kernel lacks it; load nft_tproxy, nft_socket, nft_fib_inet, nft_reject_inet, nft_ct)"
        }
        _ => "",
    }
}

/// Bytes of a message's header (`nlmsghdr`, netlink(7)).
pub const HEADER_BYTES: usize = 16;
/// The kernel sends no datagram larger than 32 KiB for a dump.
const RECEIVE_BYTES_MAX: usize = 65_536;
/// Tries to read what others may be writing.
const DUMP_TRIES_MAX: usize = 5;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
