//! Durations as users write them: `500ms`, `2s`, `25m`, `1h30m`, `7d`.

use std::{fmt, time::Duration};

/// Reads one or more `<whole number><unit>` in a row, units `ms`, `s`, `m`, `h` and `d`; a bare `0` needs no unit.
///
/// # Errors
/// What is wrong with the text, and how to write it.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError::NoUnit)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| DurationError::Unreadable)?;
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
            "d" => number.checked_mul(24 * 60 * 60).map(Duration::from_secs),
            _ => return Err(DurationError::Unreadable),
        };
        sum = part.and_then(|part| sum.checked_add(part)).ok_or(DurationError::Unreadable)?;
        if tail.is_empty() {
            return Ok(sum);
        }
        rest = tail;
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A number at the end has no unit.
    #[error("a number without a unit; write for example 500ms, 2s, 25m, 1h or 7d")]
    NoUnit,
    /// Anything else, numbers too big included.
    #[error("not a duration; write for example 500ms, 2s, 25m, 1h or 7d")]
    Unreadable,
}

/// A duration as [`parse`] reads it, in the largest unit that is exact; less than a millisecond is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text(pub Duration);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if self.0.subsec_millis() != 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        let units = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "m")];
        match units.iter().find(|(length, _)| seconds != 0 && seconds.is_multiple_of(*length)) {
            Some((length, unit)) => write!(f, "{}{unit}", seconds / length),
            None => write!(f, "{seconds}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let cases = [
            ("500ms", 500),
            ("2s", 2_000),
            ("25m", 1_500_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1s500ms", 1_500),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_duration() {
        for text in ["", "2", "1h30", "s", "-2s", "2 s", "2S", "1.5s", "2sec", "\u{662}s", "99999999999999999999s"] {
            assert!(parse(text).is_err(), "{text:?} was taken for a duration");
        }
        assert!(parse("213503982334602d").is_err(), "more seconds than a u64 holds");
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for text in ["500ms", "2s", "90s", "25m", "1h", "7d", "0s", "1500ms"] {
            assert_eq!(Text(parse(text).expect("a duration")).to_string(), text);
        }
    }
}
