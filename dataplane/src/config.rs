//! The options of the proxy: what a user may type ([`Args`]), and what the rest of the proxy gets ([`Config`]).
//!
//! Invariant: a `Config` was checked. Nothing re-checks it later, and every mistake in the options is told at once, each with
//! its flag, its value and the way out.

pub mod duration;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod telemetry;

use heddle_init_abi::OWN_MARK;
use identity::{Identity, IdentityArgs};
use limits::{Limits, LimitsArgs};
use listen::{Listen, ListenArgs};
use serde::Serialize;
use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};
use telemetry::{Telemetry, TelemetryArgs};

/// The sidecar of the Heddle service mesh. It takes every connection of its pod, finds out what the address means in the mesh,
/// and carries the bytes to the peer's proxy in mutual TLS.
///
/// Fixed ports: 15001 outbound, 15006 inbound plaintext, 15008 HBONE, 15021 /healthz/ready, 15020 /metrics, and on loopback
/// only 15000 /config_dump and /log_level. SIGTERM drains and exits with 0.
#[derive(Debug, Clone, clap::Parser, Serialize)]
#[command(name = "heddle-proxy", version, max_term_width = 100)]
pub struct Args {
    /// Who the proxy is and whom it asks.
    #[command(flatten)]
    #[serde(flatten)]
    pub identity: IdentityArgs,
    /// How it takes connections.
    #[command(flatten)]
    #[serde(flatten)]
    pub listen: ListenArgs,
    /// How long and how much.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitsArgs,
    /// What it tells.
    #[command(flatten)]
    #[serde(flatten)]
    pub telemetry: TelemetryArgs,
}

/// The checked options, one struct a concern.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who the proxy is and whom it asks.
    pub identity: Identity,
    /// How it takes connections.
    pub listen: Listen,
    /// How long and how much.
    pub limits: Limits,
    /// What it tells.
    pub telemetry: Telemetry,
    /// The options as they were given, with the defaults filled in: what the config dump shows.
    pub given: Args,
}

impl Config {
    /// What the controller's client needs to know.
    pub fn controller_settings(&self) -> heddle_controller_client::Settings {
        self.identity.controller_settings((self.listen.mode == listen::Mode::Tproxy).then_some(OWN_MARK))
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let mut checks = Checks::default();
        let identity = Identity::check(&args.identity, &mut checks);
        let listen = Listen::check(&args.listen, &mut checks);
        let limits = Limits::check(&args.limits, &mut checks);
        let telemetry = Telemetry::check(&args.telemetry, &mut checks);
        match (identity, listen, limits, telemetry) {
            (Some(identity), Some(listen), Some(limits), Some(telemetry)) => {
                Ok(Self { identity, listen, limits, telemetry, given: args })
            }
            _ => Err(ConfigError { mistakes: checks.mistakes }),
        }
    }
}

/// Every mistake in the options, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The mistakes, in the order of the options; never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.mistakes.len();
        write!(
            f,
            "{count} {} in the options (--help explains each):",
            if count == 1 { "mistake" } else { "mistakes" }
        )?;
        self.mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

/// One wrong option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The flag, such as `--pod-ips`.
    pub flag: &'static str,
    /// What was given; `None` when a required option is missing.
    pub value: Option<String>,
    /// What is wrong with it, and the way out.
    pub problem: String,
}

impl Mistake {
    /// The environment variable that means the same as the flag.
    pub fn variable(&self) -> String {
        format!("HEDDLE_{}", self.flag.trim_start_matches('-').replace('-', "_").to_uppercase())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.flag, self.variable())?;
        match &self.value {
            Some(value) => write!(f, " {value:?}: {}", self.problem),
            None => write!(f, " is missing: {}", self.problem),
        }
    }
}

/// Collects the mistakes while the options are read. Each method gives the typed value, or `None` after it noted a mistake.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    mistakes: Vec<Mistake>,
}

impl Checks {
    /// A value that `parse` understands.
    pub(crate) fn parsed<T>(
        &mut self,
        flag: &'static str,
        value: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                let value = value.chars().take(VALUE_CHARS_MAX).collect();
                self.mistakes.push(Mistake { flag, value: Some(value), problem });
                None
            }
        }
    }

    /// As [`Checks::parsed`], of an option that has no default; `needed` says where to get it.
    pub(crate) fn required<T>(
        &mut self,
        flag: &'static str,
        value: Option<&str>,
        needed: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match value {
            Some(value) => self.parsed(flag, value, parse),
            None => {
                self.mistakes.push(Mistake { flag, value: None, problem: needed.to_owned() });
                None
            }
        }
    }

    /// A duration within bounds.
    pub(crate) fn duration(
        &mut self,
        flag: &'static str,
        value: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.parsed(flag, value, |text| {
            let parsed = duration::parse(text).map_err(|error| error.to_string())?;
            if bounds.contains(&parsed) {
                return Ok(parsed);
            }
            let (least, most) = (duration::Text(*bounds.start()), duration::Text(*bounds.end()));
            Err(format!("out of range; write a duration from {least} to {most}"))
        })
    }

    /// A whole number within bounds.
    pub(crate) fn number<T>(&mut self, flag: &'static str, value: &str, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.parsed(flag, value, |text| match text.parse::<T>() {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => Err(format!("write a whole number from {} to {}", bounds.start(), bounds.end())),
        })
    }

    /// One of a closed list of words.
    pub(crate) fn choice<T: Copy>(&mut self, flag: &'static str, value: &str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(flag, value, |text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                format!("write one of: {}", words.join(", "))
            })
        })
    }
}

/// How much of a wrong value is repeated in its mistake, in characters.
const VALUE_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests;
