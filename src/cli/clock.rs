//! Microseconds since the epoch as the clock on the wall has it.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// For a table: the hour if it was today, else the day.
pub(super) fn brief(micros: u64) -> String {
    told(micros, "%H:%M", "%Y-%m-%d")
}

/// For a sentence: the hour, with the day if it was another.
pub(super) fn spoken(micros: u64) -> String {
    told(micros, "%H:%M", "%Y-%m-%d %H:%M")
}

/// To the second, with the day.
pub(super) fn exact(micros: u64) -> String {
    told(micros, "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S")
}

/// The time of day, to the second.
pub(super) fn time_of_day(micros: u64) -> String {
    told(micros, "%H:%M:%S", "%H:%M:%S")
}

/// The time of day now, to the second.
pub(super) fn now() -> String {
    Zoned::now().strftime("%H:%M:%S").to_string()
}

/// Now, in microseconds since the epoch.
pub(super) fn now_usec() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// As programs read it: in UTC, to the microsecond.
pub(super) fn rfc3339(micros: u64) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|n| Timestamp::from_microsecond(n).ok());
    stamp.map_or_else(String::new, |stamp| format!("{stamp:.6}"))
}

fn told(micros: u64, today: &str, another: &str) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|n| Timestamp::from_microsecond(n).ok());
    let Some(stamp) = stamp else { return "?".to_owned() };
    let then = stamp.to_zoned(TimeZone::system());
    let format = if then.date() == Zoned::now().date() { today } else { another };
    then.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn today_and_once() {
        let today = now_usec();
        assert_eq!(brief(today).len(), "14:03".len());
        assert_eq!(spoken(today), brief(today));
        let long_ago = 1_000_000_000_000_000;
        assert_eq!(brief(long_ago).len(), "2001-09-09".len());
        assert!(spoken(long_ago).starts_with("2001-09-"));
        assert!(exact(long_ago).starts_with(&spoken(long_ago)));
        assert_eq!(brief(u64::MAX), "?");
        assert_eq!(rfc3339(long_ago), "2001-09-09T01:46:40.000000Z");
    }
}
