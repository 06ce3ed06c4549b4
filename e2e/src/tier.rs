//! The two tiers of checks: the fast one of every run, the full one of `cargo xtask ci --full`.

/// How long the run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Minutes: every scenario, the counted ones with small numbers.
    Fast,
    /// As long as it takes: the numbers of the promises.
    Full,
}

impl Tier {
    /// The tier of this run: `HEDDLE_TIER=full`, else the fast one.
    pub fn current() -> Self {
        match std::env::var("HEDDLE_TIER").as_deref() {
            Ok("full") => Self::Full,
            _ => Self::Fast,
        }
    }

    /// The number for this tier; the run's log shows which was taken.
    pub fn count(self, what: &str, fast: u32, full: u32) -> u32 {
        let (count, other) = match self {
            Self::Fast => (fast, format!("HEDDLE_TIER=full takes {full}")),
            Self::Full => (full, format!("the fast tier takes {fast}")),
        };
        println!("{count} {what} ({other})");
        count
    }
}
