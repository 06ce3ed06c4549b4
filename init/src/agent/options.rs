//! The options of `agent`.

use crate::install::options::{NodeArgs, Places};
use clap::builder::BoolishValueParser;
use std::time::Duration;

/// The options of `agent`.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// How often every captured pod is looked at, as a number with the unit ms or s. At least 100ms; what is removed is
    /// back after at most this time and the time of a look.
    #[arg(long, env = "HEDDLE_INTERVAL", value_name = "DURATION", default_value = "2s", value_parser = interval)]
    pub interval: Duration,

    /// Also do what `install --watch` does. [default: off]
    #[arg(long, env = "HEDDLE_INSTALL", value_parser = BoolishValueParser::new())]
    pub install: bool,

    /// Where this node has what.
    #[command(flatten)]
    pub places: Places,

    /// What pods get.
    #[command(flatten)]
    pub node: NodeArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| format!("`{text}` is not like 500ms or 2s"));
    let interval = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => Duration::from_millis(number(digits)?),
        (None, Some(digits)) => Duration::from_secs(number(digits)?),
        (None, None) => return Err(format!("`{text}` has no unit; write it like 500ms or 2s")),
    };
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("`{text}` is not between {INTERVAL_MIN:?} and {INTERVAL_MAX:?}"))
    }
}

const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longer, and what is removed would stay away for too long to call it repair.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_unit_and_bounds() {
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "2", "s", "-1s", "1.5s", "99ms", "3601s", "99999999999999999999s", "2m"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
