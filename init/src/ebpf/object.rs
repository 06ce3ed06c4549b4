//! The compiled programs: loaded into the kernel, with the maps that are pinned already, or new ones.

use super::{Hook, attach::EbpfError};
use aya::{Ebpf, EbpfLoader, programs::Program};
use std::{os::fd::BorrowedFd, path::Path};

/// Programs and maps in the kernel; the programs are attached nowhere yet.
pub(super) struct Object(Ebpf);

impl Object {
    /// Loads the programs of these hooks, and opens or makes every map in this folder of a bpffs.
    ///
    /// # Errors
    /// What the kernel says, with the verifier's log.
    pub(super) fn load(pins: &Path, hooks: &[Hook]) -> Result<Self, EbpfError> {
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .load(OBJECT)
            .map_err(|source| EbpfError::Load { what: "the maps".to_owned(), source: source.into() })?;
        for hook in hooks {
            let program = ebpf.program_mut(&name(*hook)).ok_or_else(|| EbpfError::Object(name(*hook)))?;
            load(program).map_err(|source| EbpfError::Load { what: name(*hook), source: source.into() })?;
        }
        Ok(Self(ebpf))
    }

    /// Its maps.
    pub(super) fn maps(&mut self) -> &mut Ebpf {
        &mut self.0
    }

    /// A loaded program.
    ///
    /// # Errors
    /// When it was not loaded.
    pub(super) fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>, EbpfError> {
        use std::os::fd::AsFd;
        let program = self.0.program(&name(hook)).and_then(|program| program.fd().ok());
        program.map(AsFd::as_fd).ok_or_else(|| EbpfError::Object(name(hook)))
    }
}

fn load(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => Err(aya::programs::ProgramError::UnexpectedProgramType),
    }
}

fn name(hook: Hook) -> String {
    format!("heddle_{}", hook.attach_type_and_name().1)
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/heddle.bpf.o"));
