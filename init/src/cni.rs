//! `heddle-init` as a chained CNI plugin: captures pods when their network is made, so that they need no init container.
//!
//! A runtime calls the same binary with `CNI_COMMAND` set, the configuration on standard input and the rest in variables
//! (CNI specification 1.1.0). Nothing but the result, or an error as JSON, goes to standard output.

pub mod commands;
pub mod configuration;
pub mod environment;
pub mod error;
pub mod node;
pub mod pod;
pub mod record;
pub mod settings;

use configuration::{Configuration, SUPPORTED, Version, version_asked};
use environment::Request;
use error::{CniError, Code};
use std::{
    ffi::OsString,
    io::{Read, Write},
    process::ExitCode,
};

/// Whether a runtime calls: then the command line means nothing.
pub fn is_called() -> bool {
    std::env::var_os("CNI_COMMAND").is_some()
}

/// Answers the runtime on standard output.
pub fn main() -> ExitCode {
    let (answer, code) = match answer(|name| std::env::var_os(name), std::io::stdin().lock()) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err((error, version)) => (error.json(version.text()), ExitCode::FAILURE),
    };
    match writeln_if_any(&answer) {
        Ok(()) => code,
        // The runtime has gone, so this is for its log.
        Err(error) => {
            eprintln!("heddle-init: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What goes to standard output: empty for the commands that answer nothing.
fn answer(variable: impl Fn(&str) -> Option<OsString>, input: impl Read) -> Result<String, (CniError, Version)> {
    let request = Request::read(variable).map_err(|error| (error, Version::CURRENT))?;
    let input = read(input).map_err(|error| (error, Version::CURRENT));
    if request == Request::Version {
        // Even a runtime that says nothing is answered.
        return Ok(versions(&version_asked(&input.unwrap_or_default())));
    }
    let configuration = Configuration::parse(&input?).map_err(|error| (error, Version::CURRENT))?;
    let spoken = configuration.cni_version;
    carry_out(&request, &configuration).map_err(|error| (error, spoken))
}

fn carry_out(request: &Request, configuration: &Configuration) -> Result<String, CniError> {
    let nothing = |()| String::new();
    let since = |first: Version, name: &str| {
        if configuration.cni_version >= first {
            return Ok(());
        }
        let details = format!("{name} came with {}; cniVersion is {}", first.text(), configuration.cni_version.text());
        Err(CniError::new(Code::IncompatibleVersion, "incompatible CNI version", details))
    };
    match request {
        Request::Add(attachment) => commands::add(configuration, attachment),
        Request::Del(attachment) => commands::del(configuration, attachment).map(nothing),
        Request::Check(attachment) => {
            since(Version::WITH_CHECK, "CHECK")?;
            commands::check(configuration, attachment).map(nothing)
        }
        Request::Gc => {
            since(Version::WITH_GC, "GC")?;
            commands::gc(configuration).map(nothing)
        }
        Request::Status => {
            since(Version::WITH_GC, "STATUS")?;
            commands::status(configuration).map(nothing)
        }
        Request::Version => Ok(versions(configuration.cni_version.text())),
    }
}

fn versions(asked: &str) -> String {
    serde_json::json!({ "cniVersion": asked, "supportedVersions": SUPPORTED }).to_string()
}

fn read(input: impl Read) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    input
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CniError::new(Code::Io, "cannot read the configuration", error.to_string()))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        let details = format!("there is more than {INPUT_BYTES_MAX} bytes on standard input");
        return Err(CniError::new(Code::Decoding, "the configuration is too long", details));
    }
    Ok(bytes)
}

fn writeln_if_any(answer: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    if !answer.is_empty() {
        writeln!(output, "{answer}")?;
    }
    output.flush()
}

/// Annotations have at most 256 KiB a pod, and results a few KiB.
const INPUT_BYTES_MAX: u64 = 4 << 20;
