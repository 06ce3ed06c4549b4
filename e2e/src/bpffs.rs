//! A mesh's own BPF file system: where pods' eBPF links and maps are pinned, apart from everything else on the machine.

use anyhow::{Context, Result};
use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A mounted BPF file system. Dropping it unmounts it; what is pinned in it ends with it.
#[derive(Debug)]
pub(crate) struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one at `path`, which is made, for root alone (mount(2), bpf(2) "BPF_OBJ_PIN").
    ///
    /// # Errors
    /// Without root's rights, or where the kernel has no eBPF.
    pub(crate) fn mount(path: &Path) -> Result<Self> {
        fs::create_dir(path).with_context(|| path.display().to_string())?;
        let target = c_path(path)?;
        // SAFETY: all strings end with a zero and live through the call.
        let result = unsafe {
            libc::mount(
                c"bpf".as_ptr(),
                target.as_ptr(),
                c"bpf".as_ptr(),
                libc::MS_NOSUID,
                c"mode=0700".as_ptr().cast(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("mounting a BPF file system at {}", path.display()));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path) {
            eprintln!("cannot unmount {}: {error:#}", self.path.display());
        }
    }
}

/// Unmounts what is mounted at `path`, if anything is.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    let target = c_path(path)?;
    // Detached, because a program that ends at this moment may still have a file in it open.
    // SAFETY: the string ends with a zero and lives through the call.
    match unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Nothing is there, or nothing is mounted there.
            error if [Some(libc::ENOENT), Some(libc::EINVAL)].contains(&error.raw_os_error()) => Ok(()),
            error => Err(error).with_context(|| format!("unmounting {}", path.display())),
        },
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| path.display().to_string())
}

/// Its place in the folder of a mesh.
pub(crate) const FOLDER: &str = "bpf";
/// Where programs look for one (bpf-fs is mounted there by systemd, and not by everybody else).
pub(crate) const USUAL: &str = "/sys/fs/bpf";
