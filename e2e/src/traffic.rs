//! Clients and servers of the tests: curl's answers, bulk with a hash, and who listens where.

pub mod bulk;
pub mod certificate;
pub mod http;

use crate::process::Output;
use socket2::SockRef;
use std::{fs, io, net::TcpStream, time::Duration};

/// What curl got.
#[derive(Debug, Clone)]
pub struct Reply {
    /// curl's exit status (curl(1), EXIT CODES); 0 is an answer of whatever status, 7 a refused connection, 28 a timeout,
    /// 52 an empty reply, 55 and 56 a reset.
    pub exit: i32,
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// The answer's body.
    pub body: String,
    /// From start to end.
    pub took: Duration,
    /// What curl complained of.
    pub error: String,
}

impl Reply {
    pub(crate) fn of(output: Output) -> Self {
        let (body, numbers) = output.stdout.rsplit_once('\n').unwrap_or(("", &output.stdout));
        let (status, seconds) = numbers.split_once(' ').unwrap_or_default();
        Self {
            exit: output.status.code().unwrap_or(-1),
            status: status.parse().unwrap_or_default(),
            body: body.to_owned(),
            took: seconds.parse().map(Duration::from_secs_f64).unwrap_or_default(),
            error: output.stderr.trim().to_owned(),
        }
    }

    /// Whether it is an answer of status 200.
    pub fn is_ok(&self) -> bool {
        self.exit == 0 && self.status == 200
    }

    /// Whether the connection was refused or ended without a byte of an answer, and not by running into a timeout.
    pub fn is_refused(&self) -> bool {
        [7, 52, 55, 56].contains(&self.exit) && self.status == 0
    }
}

/// curl's options: quiet but for errors, the numbers of [`Reply`] on the last line.
pub(crate) const CURL_OPTIONS: [&str; 7] =
    ["-sS", "--max-time", "15", "-w", "\n%{http_code} %{time_total}", "--noproxy", "*"];

/// Ends a connection by a reset instead of in order (socket(7), SO_LINGER of 0).
///
/// # Errors
/// What setsockopt(2) says.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Whether something listens on `port` in the network namespace of process `pid` (proc(5), `/proc/pid/net/tcp`).
pub fn listens(pid: u32, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next(), fields.nth(1));
            local.is_some_and(|local| local.ends_with(&suffix)) && state == Some(LISTEN)
        })
    })
}

/// TCP_LISTEN of the kernel's states.
const LISTEN: &str = "0A";
