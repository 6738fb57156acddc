//! Durations in the syntax of systemd.time(7): `90s`, `5min`, `2h 30min`.

use std::time::Duration;

/// The names of each unit, and its length in microseconds.
const UNITS: [(&[&str], u64); 8] = [
    (&["us", "usec", "µs"], 1),
    (&["ms", "msec"], 1_000),
    (&["", "s", "sec", "second", "seconds"], SECOND),
    (&["m", "min", "minute", "minutes"], 60 * SECOND),
    (&["h", "hr", "hour", "hours"], 3600 * SECOND),
    (&["d", "day", "days"], DAY),
    (&["w", "week", "weeks"], 7 * DAY),
    (&["y", "year", "years"], 365 * DAY + DAY / 4),
];

const SECOND: u64 = 1_000_000;
const DAY: u64 = 24 * 3600 * SECOND;

/// A limit on the duration of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// The wait times out after this duration.
    For(Duration),
    /// The wait has no timeout.
    Unlimited,
}

impl TimeLimit {
    /// Parses a duration or `infinity`.
    ///
    /// # Errors
    ///
    /// The reason, for the command line.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.trim() == "infinity" {
            return Ok(Self::Unlimited);
        }
        let mut rest = text.trim();
        let mut sum = 0_u64;
        if rest.is_empty() {
            return Err("the duration has no number");
        }
        while !rest.is_empty() {
            let (part, after) = parse_part(rest)?;
            sum =
                sum.checked_add(part).ok_or("the duration is too long; 'infinity' has no limit")?;
            rest = after;
        }
        Ok(Self::For(Duration::from_micros(sum)))
    }
}

/// Parses a number with its unit. Returns it in microseconds, and the rest of the text.
fn parse_part(text: &str) -> Result<(u64, &str), &'static str> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (integer, rest) = text.split_at(digits(text));
    if integer.is_empty() {
        return Err("a duration is a number with a unit, such as 90s, 5min or '2h 30min'");
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (word, rest) = rest.split_at(end);
    let unit = UNITS.iter().find(|(words, _)| words.contains(&word));
    let (_, unit) = unit.ok_or("the units are us, ms, s, min, h, d, w and y")?;
    let too_long = "the duration is too long; 'infinity' has no limit";
    let integer: u64 = integer.parse().map_err(|_| too_long)?;
    let mut sum = integer.checked_mul(*unit).ok_or(too_long)?;
    let mut worth = *unit;
    for digit in fraction.bytes() {
        worth /= 10;
        sum = sum.checked_add(u64::from(digit - b'0') * worth).ok_or(too_long)?;
    }
    Ok((sum, rest.trim_start()))
}

/// Formats an elapsed time, to the second.
pub(crate) fn format_elapsed(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s} s"),
        (h, min, _) => format!("{h} h {min} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        for (text, micros) in [
            ("0", 0),
            ("90", 90 * SECOND),
            ("90s", 90 * SECOND),
            ("5min", 300 * SECOND),
            ("2h 30min", 9000 * SECOND),
            ("2h30min", 9000 * SECOND),
            (" 1 d  1 ", DAY + SECOND),
            ("1.5s", 1_500_000),
            ("0.25 hours", 900 * SECOND),
            ("20ms", 20_000),
            ("7us", 7),
            ("1w", 7 * DAY),
        ] {
            assert_eq!(
                TimeLimit::parse(text),
                Ok(TimeLimit::For(Duration::from_micros(micros))),
                "{text}"
            );
        }
        assert_eq!(TimeLimit::parse("infinity"), Ok(TimeLimit::Unlimited));
    }

    #[test]
    fn invalid_durations_are_refused() {
        for text in
            ["", " ", "s", "-1", "1x", "1 2h 3", "1,5s", ".5", "never", "18446744073709551615y"]
        {
            let parsed = TimeLimit::parse(text);
            // Two numbers are two parts; the first one has no unit, which means seconds.
            assert_eq!(parsed.is_ok(), text == "1 2h 3", "{text}: {parsed:?}");
        }
        assert!(TimeLimit::parse("99999999999999999999").is_err());
        assert!(TimeLimit::parse("584542y 5000y").is_err());
    }

    #[test]
    fn elapsed_times_are_formatted() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7325, "2 h 2 min")] {
            assert_eq!(format_elapsed(Duration::from_secs(seconds)), text);
        }
    }
}
