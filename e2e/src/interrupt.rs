//! Ctrl-C takes the mesh down before the program ends.

use crate::mesh;
use std::{io, thread};

/// From now on, SIGINT and SIGTERM end this program only after the mesh with this prefix was removed. To be called before
/// any other thread is started, because signals are held back thread by thread.
///
/// # Errors
/// When no thread can be started.
pub fn take_down_first(prefix: &str) -> io::Result<()> {
    let prefix = prefix.to_owned();
    // SAFETY: the set is initialised by sigemptyset before anything reads it. Programs that are started later begin with
    // an empty mask, because std resets it.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both live on this thread's stack for the whole call.
        unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        eprintln!("interrupted; taking everything down");
        if let Err(error) = mesh::remove(&prefix) {
            eprintln!("cannot take everything down: {error:#}");
        }
        #[expect(
            clippy::exit,
            reason = "the main thread works on what was just removed; the shell's convention says why"
        )]
        std::process::exit(128 + signal);
    })?;
    Ok(())
}
