//! What the proxy tells: diagnostics on stderr, one access-log line a connection on stdout.

use super::Checks;
use crate::telemetry::log::LogFilter;
use serde::Serialize;

/// What may be typed about logs.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// Which diagnostics go to stderr: `off`, `error`, `warn`, `info`, `debug` or `trace`, and after commas the level of single
    /// modules, such as `info,heddle_dataplane::hbone=debug`. POST /log_level on port 15000 changes it while the proxy runs.
    #[arg(long, env = "HEDDLE_LOG_LEVEL", value_name = "LEVEL[,MODULE=LEVEL...]", default_value = "info")]
    pub log_level: String,
    /// One line a finished connection on stdout: `json`, or `off`.
    #[arg(long, env = "HEDDLE_ACCESS_LOG", value_name = "json|off", default_value = "json")]
    pub access_log: String,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Diagnostics on stderr at start (`--log-level`).
    pub log_filter: LogFilter,
    /// Connections on stdout (`--access-log`).
    pub access_log: AccessLogFormat,
}

/// The shape of access-log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// None are written.
    Off,
}

impl Telemetry {
    pub(super) fn check(args: &TelemetryArgs, checks: &mut Checks) -> Option<Self> {
        let log_filter = checks.parsed("--log-level", &args.log_level, |text| {
            text.parse::<LogFilter>().map_err(|error| error.to_string())
        });
        let formats = [("json", AccessLogFormat::Json), ("off", AccessLogFormat::Off)];
        let access_log = checks.choice("--access-log", &args.access_log, &formats);
        Some(Self { log_filter: log_filter?, access_log: access_log? })
    }
}
