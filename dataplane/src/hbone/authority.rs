//! The `:authority` of a CONNECT request: where a tunnel leads.
//!
//! Invariant: pure, and never panics, whatever a peer sends. One address has one spelling: no IPv4 in octal or with missing
//! parts, no zone, no user, no port with a sign or leading zeros.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// Where a tunnel leads: RFC 9113, section 8.5, allows a host and a port and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address. IPv4 inside IPv6 is already IPv4.
    Address(SocketAddr),
    /// A host name in lower case, and a port.
    Name {
        /// The name, without a final dot.
        host: String,
        /// The port, not 0.
        port: u16,
    },
}

impl Authority {
    /// The port, not 0.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
        let port = parse_port(port)?;
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::Host)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| AuthorityError::Host)?;
            return Ok(Self::Address(SocketAddr::new(IpAddr::V6(address).to_canonical(), port)));
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Address(SocketAddr::new(address.into(), port)));
        }
        let host = parse_name(host)?;
        Ok(Self::Name { host, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Why a text is no target of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no port. A tunnel has no scheme from which it could follow.
    #[error("a tunnel's authority must have a port: <address or name>:<port>")]
    NoPort,
    /// The port is not one of 1 to 65535.
    #[error("a tunnel's port must be a number from 1 to 65535")]
    Port,
    /// The host is neither an address nor a name.
    #[error("a tunnel's host must be an IPv4 address, an IPv6 address in brackets, or a host name")]
    Host,
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    text.parse().map_err(|_| AuthorityError::Port)
}

/// RFC 1123, section 2.1, and `_`, which Kubernetes' SRV-style names have.
fn parse_name(text: &str) -> Result<String, AuthorityError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let sound = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > NAME_BYTES_MAX || !name.split('.').all(sound) {
        return Err(AuthorityError::Host);
    }
    // `127.1`, `0x7f000001` and `017700000001` are addresses to some resolvers; here they are nothing.
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(AuthorityError::Host);
    }
    Ok(name.to_ascii_lowercase())
}

/// RFC 1035, section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
/// RFC 1035, section 2.3.4, without the length bytes.
const NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, AuthorityError>) {
        let parsed = text.parse::<Authority>().map(|authority| authority.to_string());
        assert_eq!(parsed, expected.map(str::to_owned), "{text:?}");
    }

    #[test]
    fn a_host_and_a_port_are_taken() {
        check("10.0.0.7:80", Ok("10.0.0.7:80"));
        check("[fd00::7]:8080", Ok("[fd00::7]:8080"));
        check("[::ffff:10.0.0.7]:80", Ok("10.0.0.7:80"));
        check("web.shop.svc.cluster.local:80", Ok("web.shop.svc.cluster.local:80"));
        check("WEB.shop:65535", Ok("web.shop:65535"));
        check("web.shop.:1", Ok("web.shop:1"));
        check("_grpc._tcp.web:1", Ok("_grpc._tcp.web:1"));
        check("1.example:1", Ok("1.example:1"));
    }

    #[test]
    fn ports_have_one_spelling() {
        check("10.0.0.7", Err(AuthorityError::NoPort));
        check("", Err(AuthorityError::NoPort));
        for port in ["", "0", "080", "+80", "-1", " 80", "80 ", "65536", "99999999999", "0x50", "8 0", "٨٠"] {
            check(&format!("10.0.0.7:{port}"), Err(AuthorityError::Port));
        }
    }

    #[test]
    fn hosts_have_one_spelling() {
        let bad = [
            "",
            "[",
            "]",
            "[]",
            "[fd00::7",
            "fd00::7",
            "::1",
            "[10.0.0.7]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "10.0.0",
            "127.1",
            "0x7f000001",
            "017700000001",
            "010.0.0.7",
            "10.0.0.7.",
            "10.0.0.256",
            "1.2.3.4.5",
            "a..b",
            ".a",
            "-a",
            "a-",
            "a@b",
            "user:pw@b",
            "a/b",
            "a b",
            "a\0b",
            "a%2eb",
            "a?b",
            "a#b",
            "a\\b",
            "ä.example",
            "*",
        ];
        for host in bad {
            check(&format!("{host}:80"), Err(AuthorityError::Host));
        }
        check(&format!("{}:80", "a".repeat(64)), Err(AuthorityError::Host));
        check(&format!("{}:80", vec!["a".repeat(63); 5].join(".")), Err(AuthorityError::Host));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let pieces = ["[", "]", ":", ".", "0", "9", "a", "-", "\0", "%", "ü", "::", "65536", "@"];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    for fourth in pieces {
                        let _ = format!("{first}{second}{third}{fourth}").parse::<Authority>();
                    }
                }
            }
        }
    }
}
