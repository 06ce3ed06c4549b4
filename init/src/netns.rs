//! Network namespaces of others, and a way into them for one thread at a time.

use socket2::{Domain, Socket, Type};
use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

/// An open network namespace. It lives as long as this value, even when its name goes.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    path: PathBuf,
    inode: u64,
}

/// Why nothing was done in a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is nothing at this path, or it may not be opened.
    #[error("cannot open the network namespace {path}", path = path.display())]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is something else.
    #[error("{path} is not a network namespace; an ordinary file there is what stays when the namespace is gone", path = path.display())]
    SomethingElse {
        /// Where it should be.
        path: PathBuf,
    },
    /// It may not be entered.
    #[error("cannot enter the network namespace {path}; that needs CAP_SYS_ADMIN", path = path.display())]
    Enter {
        /// Where it is.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// None could be made.
    #[error("cannot make a network namespace; that needs CAP_SYS_ADMIN")]
    New(#[source] io::Error),
    /// No thread could be started, or it ended by a fault of this program.
    #[error("the thread in the network namespace failed: {0}")]
    Thread(String),
}

impl NetworkNamespace {
    /// Opens the namespace at a path such as `/run/netns/NAME` or `/proc/PID/ns/net` (network_namespaces(7)).
    ///
    /// # Errors
    /// When there is none. Never waits, whatever is at the path.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let (own, found) = (std::fs::metadata(OWN).map_err(failed)?, file.metadata().map_err(failed)?);
        // All namespaces, and nothing else, are files of the one filesystem nsfs; entering tells of which kind it is.
        if found.dev() != own.dev() {
            return Err(NetnsError::SomethingElse { path: path.to_owned() });
        }
        Ok(Self { file, path: path.to_owned(), inode: found.ino() })
    }

    /// The number that names it among those that exist now; another namespace may get it later.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Whether it is the one that this process is in.
    pub fn is_own(&self) -> bool {
        std::fs::metadata(OWN).is_ok_and(|own| own.ino() == self.inode)
    }

    /// Runs a closure in the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then the closure was not called.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let body = || {
            // SAFETY: setns() touches no memory. It changes this thread only, which ends with the closure.
            let result = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
            if result == 0 { Ok(inside()) } else { Err(io::Error::last_os_error()) }
        };
        on_a_thread(body)?.map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => NetnsError::SomethingElse { path: self.path.clone() },
            _ => NetnsError::Enter { path: self.path.clone(), source },
        })
    }
}

/// Brings up `lo` of the network namespace that this thread is in (netdevice(7), `SIOCSIFFLAGS`). May be repeated.
///
/// # Errors
/// What the kernel says; `EPERM` without CAP_NET_ADMIN.
pub fn raise_loopback() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("two of the lower bits");
    let flags = libc::__c_anonymous_ifr_ifru { ifru_flags: up };
    let request = libc::ifreq { ifr_name: name, ifr_ifru: flags };
    // SAFETY: the descriptor is open because `socket` lives, and the kernel only reads `request`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a closure in a new network namespace, which has only a `lo` that is down, and which goes when the closure ends.
///
/// # Errors
/// When none can be made; then the closure was not called.
pub fn in_new<T: Send>(inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let body = || {
        // SAFETY: unshare() touches no memory. It changes this thread only, which ends with the closure.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result == 0 { Ok(inside()) } else { Err(io::Error::last_os_error()) }
    };
    on_a_thread(body)?.map_err(NetnsError::New)
}

fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().spawn_scoped(scope, body).map_err(|error| NetnsError::Thread(error.to_string()))?;
        thread.join().map_err(|_| NetnsError::Thread("it panicked, see above".to_owned()))
    })
}

/// The network namespace of this process.
const OWN: &str = "/proc/self/ns/net";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_told_and_never_waited_for() {
        let missing = NetworkNamespace::open(Path::new("/proc/self/ns/nothing")).expect_err("it is not there");
        assert!(missing.to_string().contains("cannot open the network namespace /proc/self/ns/nothing"), "{missing}");
        let file = NetworkNamespace::open(Path::new("/proc/self/status")).expect_err("it is an ordinary file");
        assert!(file.to_string().contains("is not a network namespace"), "{file}");
        let other = NetworkNamespace::open(Path::new("/proc/self/ns/mnt")).expect("it is a namespace");
        let error = other.enter(|| ()).expect_err("it is one of mounts");
        // Without root, entering is refused before the kernel looks at the kind.
        assert!(matches!(error, NetnsError::SomethingElse { .. } | NetnsError::Enter { .. }), "{error:?}");
    }

    #[test]
    fn the_own_one_is_known() {
        assert!(NetworkNamespace::open(Path::new("/proc/thread-self/ns/net")).expect("it is there").is_own());
    }
}
