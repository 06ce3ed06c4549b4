//! A program in a pod: in its network namespace and its cgroup, with a private `/etc/hosts`, and with exactly the rights
//! it may have.
//!
//! `nsenter` and not `ip netns exec`, which remounts /sys and hides the cgroups.

use crate::{cgroup::Container, netns::Namespace, program, wait};
use anyhow::{Context, Result, bail};
use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// The rights that a program runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Everything: the harness's own tools.
    Harness,
    /// Uid 0 with this one capability, and no way to more.
    Capability(&'static str),
    /// Uid 0 with these capabilities, and no way to more.
    Capabilities(&'static [&'static str]),
    /// Uid 0 without any capability: an application that runs as the proxy's user.
    Root,
    /// This uid and gid without any capability.
    User(u32, u32),
}

impl Rights {
    /// Those of a system user.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn of(user: &str) -> Result<Self> {
        program::user(user).map(|(uid, gid)| Self::User(uid, gid))
    }

    fn setpriv(self) -> Vec<String> {
        let none = ["--inh-caps=-all", "--no-new-privs"].map(str::to_owned);
        match self {
            Self::Harness => Vec::new(),
            Self::Capability(one) => [format!("--bounding-set=-all,+{one}")].into_iter().chain(none).collect(),
            Self::Capabilities(several) => {
                let set = several.iter().fold("-all".to_owned(), |set, one| format!("{set},+{one}"));
                [format!("--bounding-set={set}")].into_iter().chain(none).collect()
            }
            Self::Root => ["--bounding-set=-all".to_owned()].into_iter().chain(none).collect(),
            Self::User(uid, gid) => {
                let user = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
                user.into_iter().chain(["--bounding-set=-all".to_owned()]).chain(none).collect()
            }
        }
    }
}

/// A program about to start.
#[derive(Debug)]
pub struct Launch<'a> {
    namespace: &'a Namespace,
    program: PathBuf,
    arguments: Vec<OsString>,
    rights: Rights,
    container: Option<Container>,
    mounts: Vec<(PathBuf, PathBuf)>,
    hidden: Vec<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    outlives_us: bool,
    in_the_terminal: bool,
}

impl<'a> Launch<'a> {
    /// `program` in `namespace`.
    pub fn new(namespace: &'a Namespace, program: impl Into<PathBuf>, rights: Rights) -> Self {
        let (arguments, mounts, hidden, variables) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            namespace,
            program: program.into(),
            arguments,
            rights,
            container: None,
            mounts,
            hidden,
            variables,
            outlives_us: false,
            in_the_terminal: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable; of this process's own only a few are handed on.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Shows the program the file or folder `from` at `at`, which must exist.
    #[must_use]
    pub fn mount(mut self, from: impl Into<PathBuf>, at: impl Into<PathBuf>) -> Self {
        self.mounts.push((from.into(), at.into()));
        self
    }

    /// Starts it in this cgroup; else it is in ours.
    #[must_use]
    pub fn container(mut self, container: &Container) -> Self {
        self.container = Some(container.clone());
        self
    }

    /// Shows the program an empty folder in place of `folder`, which must exist.
    #[must_use]
    pub fn hide(mut self, folder: impl Into<PathBuf>) -> Self {
        self.hidden.push(folder.into());
        self
    }

    /// Lets it run on when this process ends. Otherwise it is killed as soon as the *thread* that started it ends
    /// (prctl(2), PR_SET_PDEATHSIG).
    #[must_use]
    pub fn outlives_us(mut self, outlives: bool) -> Self {
        self.outlives_us = outlives;
        self
    }

    /// Leaves it in this program's process group, so that it may read from the terminal; and it is not killed with us.
    #[must_use]
    pub fn in_the_terminal(mut self) -> Self {
        (self.in_the_terminal, self.outlives_us) = (true, true);
        self
    }

    /// Starts it with its output appended to `<log>.out` and `<log>.err`.
    ///
    /// # Errors
    /// When it cannot be started. What the program itself says is in its log.
    pub fn spawn(self, log: &Path) -> Result<Process> {
        let append = |extension: &str| -> Result<(PathBuf, File)> {
            let path = log.with_added_extension(extension);
            let file = OpenOptions::new().create(true).append(true).open(&path);
            Ok((path.clone(), file.with_context(|| path.display().to_string())?))
        };
        let ((stdout, out), (stderr, err)) = (append("out")?, append("err")?);
        let name = self.name();
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { name, child, stdout, stderr })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended within `deadline`; then it is killed. Its exit status is the caller's
    /// to judge.
    pub fn output(self, deadline: Duration) -> Result<Output> {
        let name = self.name();
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let collect = |source: Option<Box<dyn Read + Send>>| {
            thread::spawn(move || {
                let mut text = Vec::new();
                // A program that dies half way through its output has said what it has said.
                let _ = source.map(|mut source| source.read_to_end(&mut text));
                text
            })
        };
        let out = collect(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let err = collect(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        let status = wait::until(&format!("the end of {name}"), deadline, || Ok(child.try_wait()?));
        if status.is_err() {
            kill_group(&child, libc::SIGKILL);
            child.wait().with_context(|| format!("killing {name}"))?;
        }
        let text = |thread: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
        };
        let (stdout, stderr) = (text(out), text(err));
        let status = status.with_context(|| format!("{name} said: {stdout}{stderr}"))?;
        Ok(Output { name, status, stdout, stderr })
    }

    /// The whole command line, for an input and output of the caller's own.
    ///
    /// # Errors
    /// When a tool that it needs is missing.
    pub fn command(self) -> Result<Command> {
        let mut command = Command::new(program::system("nsenter")?);
        command.arg(format!("--net={}", self.namespace.path().display()));
        command.args([
            "unshare",
            "--mount",
            "--ipc",
            "--propagation",
            "private",
            "/bin/sh",
            "-c",
            MOUNT_AND_EXEC,
            "pod",
        ]);
        // What is hidden may be shown at another place, so it is hidden last.
        for (from, at) in &self.mounts {
            command.args([from, at]);
        }
        for folder in &self.hidden {
            command.args(["-".as_ref(), folder.as_os_str()]);
        }
        command.arg("--").arg(self.container.as_ref().map(Container::processes).unwrap_or_default());
        command.arg("setpriv");
        let fate = if self.outlives_us { "--pdeathsig=clear" } else { "--pdeathsig=KILL" };
        command.arg(fate).args(self.rights.setpriv()).arg(&self.program).args(&self.arguments);
        command.env_clear().env("PATH", std::env::join_paths(program::search_path())?);
        command.env("LANG", "C.UTF-8").env("HOME", "/").env("RUST_BACKTRACE", "1").envs(self.variables);
        command.envs(std::env::var_os("TERM").map(|term| ("TERM", term))).current_dir("/");
        if !self.in_the_terminal {
            // A group of its own, so that what it forks ends with it, and Ctrl-C reaches only the harness.
            command.process_group(0);
        }
        Ok(command)
    }

    fn name(&self) -> String {
        let program = self.program.file_name().unwrap_or_default().to_string_lossy();
        format!("{program} in {}", self.namespace.name())
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it ended with exit status 0.
    ///
    /// # Errors
    /// When it did not, with what it said.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{} failed ({}): {}{}", self.name, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// A running program. Dropping it kills it with everything in its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Where its standard output goes.
    pub stdout: PathBuf,
    /// Where its standard error goes.
    pub stderr: PathBuf,
}

impl Process {
    /// Its process id: that of the program itself, because every step before it ends in exec.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When it ended, with its last words.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("waiting for a process")? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); it said: {}", self.name, self.last_words()),
        }
    }

    /// Sends it a signal; one that has ended gets none.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill(2) has no memory effects; the child was not waited for, so its pid is its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not come within `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, deadline, || Ok(self.child.try_wait()?))
    }

    /// The end of what it wrote to standard error.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lets go of it: it runs on when this value and this process are gone.
    pub fn leave(self) {
        // The destructor is what would kill it.
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill_group(&self.child, libc::SIGKILL);
        // It was killed, so this takes no time; a failure would mean that it is not ours any more.
        let _ = self.child.wait();
    }
}

fn kill_group(child: &Child, signal: i32) {
    // SAFETY: kill(2) has no memory effects; the group was made for this child alone.
    unsafe { libc::kill(-child.id().cast_signed(), signal) };
}

/// Mounts pairs of paths up to `--`, where `-` is an empty file system; enters the cgroup by its file, unless that is
/// empty; then becomes the rest.
const MOUNT_AND_EXEC: &str = r#"
while [ "$1" != -- ]; do
    if [ "$1" = - ]; then mount -t tmpfs -o mode=0,size=4k none "$2"; else mount --bind "$1" "$2"; fi || exit 125
    shift 2
done
if [ -n "$2" ]; then echo $$ > "$2" || exit 125; fi
shift 2
exec "$@""#;
