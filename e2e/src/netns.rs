//! Network namespaces: made, joined by veths to a bridge, entered by threads, and gone when dropped.

use crate::{
    bpffs,
    cgroup::{self, Container},
    program, wait,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Once,
    thread,
    time::Duration,
};

/// A named network namespace. Dropping it kills what runs in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    kept: bool,
}

impl Namespace {
    /// Makes it, with its loopback up and the settings of a pod: unprivileged processes may listen on every port, and
    /// IPv6 addresses are usable at once.
    ///
    /// # Errors
    /// Without the right to, or when it exists.
    pub fn create(name: &str) -> Result<Self> {
        // ip-netns(8) runs commands under names of at most NAME_MAX; what is longer fails late and unclearly.
        ensure!(name.len() < 200, "the namespace name {name} is too long");
        ip(None, &format!("netns add {name}"))?;
        let namespace = Self { name: name.to_owned(), kept: false };
        ip(Some(&namespace), "link set lo up")?;
        namespace.sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        Ok(namespace)
    }

    /// One that is there already, and stays when this value is dropped.
    pub fn existing(name: &str) -> Option<Self> {
        path_of(name).exists().then(|| Self { name: name.to_owned(), kept: true })
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The command that enters it.
    pub fn enter_command(&self) -> String {
        format!("nsenter --net={}", path_of(&self.name).display())
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Turns it into a switch: a bridge `br0` with these addresses. Its MAC is fixed: by itself a bridge takes the lowest of
    /// its ports' (bridge(8)), so that a new pod would leave the others with a stale neighbour entry, and their packets lost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_bridge(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        let lines = format!(
            "link add br0 address {BRIDGE_MAC} type bridge\nlink set br0 up\naddress add {v4}/24 dev br0\naddress add {v6}/64 dev br0 nodad\n"
        );
        ip(Some(self), &lines)
    }

    /// Adds an address to the loopback, for whoever plays a host outside of the mesh.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        ip(Some(self), &format!("address add {address} dev lo{nodad}"))
    }

    /// Joins `pod` to this bridge by a veth that is called `port` here and `eth0` there, with default routes to `gateway`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(
        &self,
        pod: &Self,
        port: &str,
        addresses: (Ipv4Addr, Ipv6Addr),
        gateway: (Ipv4Addr, Ipv6Addr),
    ) -> Result<()> {
        ensure!(port.len() <= IFNAME_MAX, "the pod name {port} is longer than an interface name may be ({IFNAME_MAX})");
        let pod_name = pod.name();
        let here = format!(
            "link add {port} type veth peer name eth0 netns {pod_name}\nlink set {port} master br0 addrgenmode none\nlink set {port} up\n"
        );
        ip(Some(self), &here)?;
        let ((v4, v6), (gateway4, gateway6)) = (addresses, gateway);
        let there = format!(
            "address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via {gateway4}\nroute add ::/0 via {gateway6}\n"
        );
        ip(Some(pod), &there)
    }

    /// Writes a setting under `/proc/sys`.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name);
        self.run(|| fs::write(&file, value))?.with_context(|| format!("writing {}", file.display()))
    }

    /// Runs `work` on a thread inside this namespace, with the rights of this process. Sockets that it opens stay here,
    /// whoever uses them later.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.on_thread(None, work)
    }

    /// As [`Namespace::run`], in the cgroup of `container`, as this uid and gid, and without any capability: as an
    /// application.
    ///
    /// # Errors
    /// When the namespace or the cgroup cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run_unprivileged<T: Send>(
        &self,
        container: &Container,
        uid: u32,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        self.on_thread(Some((container, uid)), work)
    }

    fn on_thread<T: Send>(&self, application: Option<(&Container, u32)>, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        let thread = || -> io::Result<T> {
            // Before the rest, because both need rights.
            if let Some((container, _)) = application {
                container.enter()?;
            }
            // SAFETY: the descriptor is open for the whole call; only this thread moves.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            if let Some((_, uid)) = application {
                drop_rights(uid)?;
            }
            Ok(work())
        };
        let result = thread::scope(|scope| scope.spawn(thread).join());
        match result {
            Ok(result) => result.with_context(|| format!("entering namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The processes that are in it, from `/proc/<pid>/ns/net`.
    pub fn processes(&self) -> Vec<i32> {
        processes(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.name)
        {
            eprintln!("cannot remove namespace {}: {error:#}", self.name);
        }
    }
}

/// Kills what runs in the namespace `name` and removes it.
///
/// # Errors
/// When a process does not end, or the namespace cannot be removed.
pub fn remove(name: &str) -> Result<()> {
    wait::until_true(&format!("the end of the processes in namespace {name}"), Duration::from_secs(5), || {
        let processes = processes(name);
        for pid in &processes {
            // SAFETY: kill(2) has no memory effects; the pid was found in a namespace of ours a moment ago.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        Ok(processes.is_empty())
    })?;
    match ip(None, &format!("netns delete {name}")) {
        // Somebody else took it down at the same time: its owner, while Ctrl-C does.
        Err(_) if !path_of(name).exists() => Ok(()),
        result => result,
    }
}

/// The names of the namespaces that start with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let entries = Path::new(NETNS).read_dir().into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Removes, once a process, the namespaces `heddle-<pid>-…` of test runs that died, and the cgroups, mounts and folders of
/// the same names.
pub fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in list("heddle-").into_iter().filter(|name| owner_is_dead(name)) {
            if let Err(error) = remove(&name) {
                eprintln!("cannot remove the stale namespace {name}: {error:#}");
            }
        }
        if let Err(error) = cgroup::sweep(owner_is_dead) {
            eprintln!("cannot remove stale cgroups: {error:#}");
        }
        let folders = std::env::temp_dir().read_dir().into_iter().flatten().flatten();
        for folder in folders.filter(|folder| folder.file_name().to_str().is_some_and(owner_is_dead)) {
            // Somebody else's folder of such a name is left to them.
            let _ = bpffs::unmount(&folder.path().join(bpffs::FOLDER)).map(|()| fs::remove_dir_all(folder.path()));
        }
    });
}

fn owner_is_dead(name: &str) -> bool {
    let pid = name.strip_prefix("heddle-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

fn processes(name: &str) -> Vec<i32> {
    let Ok(namespace) = fs::metadata(path_of(name)) else { return Vec::new() };
    let entries = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let theirs = fs::metadata(format!("/proc/{pid}/ns/net"));
        theirs.is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (namespace.dev(), namespace.ino()))
    })
    .collect()
}

/// Makes the calling thread one of this user and group without any capability (capset(2), version 3: two 32-bit words a
/// set). By system call, because the C library would do it to all threads (nptl(7)).
fn drop_rights(uid: u32) -> io::Result<()> {
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: the call takes numbers only, and changes nothing but the calling thread's credentials.
        if unsafe { libc::syscall(call, uid, uid, uid) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let header = [0x2008_0522_u32, 0];
    let sets = [0_u32; 6];
    // SAFETY: both arrays have the size that version 3 reads, and outlive the call; pid 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `ip -batch`, in `namespace` or here.
fn ip(namespace: Option<&Namespace>, lines: &str) -> Result<()> {
    let mut command = Command::new(program::system("ip")?);
    if let Some(namespace) = namespace {
        command.args(["-n", namespace.name()]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting ip")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).and_then(|()| input.write_all(b"\n")).context("telling ip what to do")?;
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    if !output.status.success() {
        bail!("ip: {}: {}", lines.trim_end().replace('\n', "; "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Where ip-netns(8) mounts named namespaces.
const NETNS: &str = "/run/netns";
/// IFNAMSIZ without the closing zero.
const IFNAME_MAX: usize = 15;
/// Of the bridge: locally administered (IEEE 802, section 8.2).
const BRIDGE_MAC: &str = "02:00:00:00:00:01";
