//! Links by bpf(2): a program attached to a cgroup or network namespace as long as the link has a descriptor or a pin.
//!
//! aya has no such call for every kind of program, and one way for all is less than two.

use super::Hook;
use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// What a link connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// The program.
    pub(super) program: u32,
    /// The cgroup's number, or the network namespace's inode; 0 when that is gone.
    pub(super) target: u64,
    /// Where in it.
    pub(super) attach_type: u32,
}

/// Attaches a program beside whatever is attached there.
///
/// # Errors
/// What bpf(2) says.
pub(super) fn create(program: BorrowedFd<'_>, target: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    let (attach_type, _) = hook.attach_type_and_name();
    let mut words = [fd(program), fd(target), attach_type, 0];
    bpf(BPF_LINK_CREATE, &mut words).map(owned)
}

/// Puts another program in the place of a link's, in one step.
///
/// # Errors
/// What bpf(2) says.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut words = [fd(link), fd(program), 0, 0];
    bpf(BPF_LINK_UPDATE, &mut words).map(|_| ())
}

/// Gives a link or program a name in a bpffs, by which it lives on.
///
/// # Errors
/// What bpf(2) says; EEXIST when there is such a file.
pub(super) fn pin(object: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    let mut attributes = Pin { path: path.as_ptr().expose_provenance() as u64, fd: fd(object), flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attributes).map(|_| ())
}

/// Opens what is pinned.
///
/// # Errors
/// What bpf(2) says; ENOENT when nothing is there.
pub(super) fn open(at: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    let mut attributes = Pin { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    bpf(BPF_OBJ_GET, &mut attributes).map(owned)
}

/// What a link connects (linux/bpf.h, `struct bpf_link_info`).
///
/// # Errors
/// What bpf(2) says.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let info = info(link)?;
    let (program, kind) = (word(&info, 2), word(&info, 0));
    // The union starts at byte 16: of a cgroup a u64 and the attach type, of a network namespace a u32 and the attach type.
    let (target, attach_type) = match kind {
        BPF_LINK_TYPE_NETNS => (u64::from(word(&info, 4)), word(&info, 5)),
        _ => (info[2], word(&info, 6)),
    };
    Ok(LinkInfo { program, target, attach_type })
}

/// A program's number (linux/bpf.h, `struct bpf_prog_info`).
///
/// # Errors
/// What bpf(2) says.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(word(&info(program)?, 1))
}

fn info(object: BorrowedFd<'_>) -> io::Result<[u64; INFO_WORDS]> {
    let mut info = [0_u64; INFO_WORDS];
    let length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    let mut attributes = Info { fd: fd(object), length, info: info.as_mut_ptr().expose_provenance() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info)
}

/// The 32-bit word at this place.
fn word(info: &[u64], at: usize) -> u32 {
    let bytes = info[at / 2].to_ne_bytes();
    let (low, high) = bytes.split_at(4);
    let half = if at.is_multiple_of(2) { low } else { high };
    half.try_into().map_or(0, u32::from_ne_bytes)
}

fn fd(of: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    of.as_raw_fd().unsigned_abs()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: bpf(2) has just opened it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at `attributes`, which is borrowed for the call, and what its
    // pointers lead to is owned by our callers until it returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// `union bpf_attr` for BPF_OBJ_PIN and BPF_OBJ_GET.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// More than the longest info that is read here needs.
const INFO_WORDS: usize = 16;
// linux/bpf.h
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_TYPE_NETNS: u32 = 5;
