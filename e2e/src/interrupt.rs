//! Ctrl-C takes the mesh down before the program ends.

use crate::mesh;
use std::{
    io::{self, Read},
    os::{fd::IntoRawFd, unix::net::UnixStream},
    sync::atomic::{AtomicI32, Ordering},
    thread,
};

/// From now on, SIGINT and SIGTERM end this program only after the mesh with this prefix was removed. To be called once.
///
/// # Errors
/// When no thread can be started.
pub fn take_down_first(prefix: &str) -> io::Result<()> {
    let prefix = prefix.to_owned();
    // Signals are noted by a handler and not held back: held back, they would be for the programs that are started, too.
    let (mut read, write) = UnixStream::pair()?;
    WAKE.store(write.into_raw_fd(), Ordering::Relaxed);
    thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        let mut signal = [0];
        if read.read_exact(&mut signal).is_err() {
            return;
        }
        eprintln!("interrupted; taking everything down");
        if let Err(error) = mesh::remove(&prefix) {
            eprintln!("cannot take everything down: {error:#}");
        }
        #[expect(
            clippy::exit,
            reason = "the main thread works on what was just removed; the status is the shell's convention"
        )]
        std::process::exit(128 + i32::from(signal[0]));
    })?;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is valid: no flags, an empty mask, the default handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = wake as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: `action` is complete and lives through the call; `wake` calls only what signal-safety(7) lists.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
    Ok(())
}

extern "C" fn wake(signal: libc::c_int) {
    let number = signal.to_le_bytes()[0];
    // SAFETY: one byte that lives through the call; the descriptor is never closed.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), (&raw const number).cast(), 1) };
}

/// Where the handler writes.
static WAKE: AtomicI32 = AtomicI32::new(-1);
