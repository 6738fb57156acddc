//! Points in time, in microseconds since the epoch, as they are printed: in the user's time zone
//! (`TZ`, else that of the host), and with the date unless it is today's.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

const DATE: &str = "%Y-%m-%d";

/// To the minute.
pub(crate) fn minute(micros: u64) -> String {
    told(micros, "%H:%M")
}

/// To the second.
pub(crate) fn second(micros: u64) -> String {
    told(micros, "%H:%M:%S")
}

/// To the second, with the date in any case.
pub(crate) fn exact(micros: u64) -> String {
    let then = stamp(micros).map(|stamp| stamp.to_zoned_datetime(TimeZone::system()));
    then.map_or_else(unknown, |then| then.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Now, in microseconds since the epoch.
pub(crate) fn now_usec() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// As programs read it: in UTC, to the microsecond.
pub(crate) fn rfc3339(micros: u64) -> String {
    stamp(micros).map_or_else(String::new, |stamp| format!("{stamp:.6}"))
}

/// Prints a point in time.
type Print = fn(u64) -> String;

/// What the service writes before a point in time, and how such a time is printed.
const INTRODUCED: [(&str, Print); 2] = [(" since ", minute), (" until ", second)];
/// The length of a time in a message, as in `2026-11-30T14:03:05Z`.
const LENGTH: usize = 20;

/// A message of the service with its times, which are in UTC, as this tool prints them.
pub(crate) fn localized(message: &str) -> String {
    let mut text = message.to_owned();
    for (word, print) in INTRODUCED {
        let mut parts = text.split(word);
        let mut told = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            told += word;
            match part.get(..LENGTH).and_then(utc) {
                Some(micros) => told += &(print(micros) + &part[LENGTH..]),
                None => told += part,
            }
        }
        text = told;
    }
    text
}

/// Reads a time as the service writes it.
fn utc(text: &str) -> Option<u64> {
    let stamp: Timestamp = text.parse().ok().filter(|_| text.ends_with('Z'))?;
    u64::try_from(stamp.as_microsecond()).ok()
}

fn stamp(micros: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::try_from(micros).ok()?).ok()
}

fn unknown() -> String {
    "?".to_owned()
}

fn told(micros: u64, time: &str) -> String {
    let Some(stamp) = stamp(micros) else { return unknown() };
    let now = ZonedDateTime::now();
    at(&stamp.to_zoned_datetime(now.time_zone().clone()), &now, time)
}

/// A time as it is printed at this moment.
fn at(then: &ZonedDateTime, now: &ZonedDateTime, time: &str) -> String {
    if then.date() == now.date() {
        then.strftime(time).to_string()
    } else {
        then.strftime(&format!("{DATE} {time}")).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_told_once_midnight_has_passed() {
        let time = |text: &str| text.parse::<ZonedDateTime>().unwrap();
        let then = time("2026-11-30T23:59:59+01:00[+01:00]");
        let before = time("2026-11-30T23:59:59+01:00[+01:00]");
        let after = time("2026-12-01T00:00:00+01:00[+01:00]");
        assert_eq!(at(&then, &before, "%H:%M"), "23:59");
        assert_eq!(at(&then, &after, "%H:%M"), "2026-11-30 23:59");
        // Midnight of UTC is not midnight here.
        let next = time("2026-12-01T00:30:00+01:00[+01:00]");
        assert_eq!(at(&next, &after, "%H:%M:%S"), "00:30:00");
    }

    #[test]
    fn today_and_once() {
        let today = now_usec();
        assert_eq!(minute(today).len(), "14:03".len());
        assert_eq!(second(today).len(), "14:03:05".len());
        let long_ago = 1_000_000_000_000_000;
        assert_eq!(minute(long_ago).len(), "2001-09-09 01:46".len());
        assert_eq!(second(long_ago), exact(long_ago));
        assert!(exact(long_ago).starts_with(&minute(long_ago)));
        assert_eq!(minute(u64::MAX), "?");
        assert_eq!(rfc3339(long_ago), "2001-09-09T01:46:40.000000Z");
    }

    #[test]
    fn times_in_messages_become_local_ones() {
        let micros = 1_000_000_000_000_000;
        let (minute, second) = (minute(micros), second(micros));
        let at = "2001-09-09T01:46:40Z";
        assert_eq!(
            localized(&format!(
                "/a is locked by VM \"x\" since {at}, 2 h ago, and reserved until {at}"
            )),
            format!(
                "/a is locked by VM \"x\" since {minute}, 2 h ago, and reserved until {second}"
            )
        );
        for text in [
            "",
            "since",
            "VM \"é since é\" since yesterday until 2001-09-09T01:46",
            " since 2001-09-09T01:46:40.5Z",
            " since 2001-99-09T01:46:40Z until ",
        ] {
            assert_eq!(localized(text), text);
        }
    }
}
