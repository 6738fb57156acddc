//! Formats points in time, given in microseconds since 1970: in the user's time zone (`TZ`,
//! otherwise the time zone of the host), and with the date unless it is today's.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

const DATE: &str = "%Y-%m-%d";

/// Formats a time to the minute.
pub(crate) fn minute(micros: u64) -> String {
    format_relative(micros, "%H:%M")
}

/// Formats a time to the second.
pub(crate) fn second(micros: u64) -> String {
    format_relative(micros, "%H:%M:%S")
}

/// Formats a time to the second, always with the date.
pub(crate) fn exact(micros: u64) -> String {
    let then = timestamp(micros).map(|timestamp| timestamp.to_zoned_datetime(TimeZone::system()));
    then.map_or_else(unknown, |then| then.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Returns the current time, in microseconds since 1970.
pub(crate) fn now_usec() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// Formats a time by RFC 3339, for programs: in UTC, to the microsecond.
pub(crate) fn rfc3339(micros: u64) -> String {
    timestamp(micros).map_or_else(String::new, |timestamp| format!("{timestamp:.6}"))
}

/// A function that formats a point in time.
type Formatter = fn(u64) -> String;

/// The words that precede a time in messages of the service, and the format of that time.
const PREFIXES: [(&str, Formatter); 2] = [(" since ", minute), (" until ", second)];
/// The length of a time in a message, as in `2026-11-30T14:03:05Z`.
const TIMESTAMP_LEN: usize = 20;

/// Converts the times in a message of the service, which are in UTC, to the format of this tool.
pub(crate) fn localize_times(message: &str) -> String {
    let mut text = message.to_owned();
    for (word, format) in PREFIXES {
        let mut parts = text.split(word);
        let mut localized = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            localized += word;
            match part.get(..TIMESTAMP_LEN).and_then(parse_utc) {
                Some(micros) => localized += &(format(micros) + &part[TIMESTAMP_LEN..]),
                None => localized += part,
            }
        }
        text = localized;
    }
    text
}

/// Parses a time in the format of the service's messages.
fn parse_utc(text: &str) -> Option<u64> {
    let timestamp: Timestamp = text.parse().ok().filter(|_| text.ends_with('Z'))?;
    u64::try_from(timestamp.as_microsecond()).ok()
}

fn timestamp(micros: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::try_from(micros).ok()?).ok()
}

fn unknown() -> String {
    "?".to_owned()
}

/// Formats a time for a reader who sees it now.
fn format_relative(micros: u64, time: &str) -> String {
    let Some(timestamp) = timestamp(micros) else { return unknown() };
    let now = ZonedDateTime::now();
    format_at(&timestamp.to_zoned_datetime(now.time_zone().clone()), &now, time)
}

/// Formats a time for a reader who sees it at `now`: without the date if it is the same day.
fn format_at(then: &ZonedDateTime, now: &ZonedDateTime, time: &str) -> String {
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
    fn the_date_is_printed_once_midnight_has_passed() {
        let time = |text: &str| text.parse::<ZonedDateTime>().unwrap();
        let then = time("2026-11-30T23:59:59+01:00[+01:00]");
        let before = time("2026-11-30T23:59:59+01:00[+01:00]");
        let after = time("2026-12-01T00:00:00+01:00[+01:00]");
        assert_eq!(format_at(&then, &before, "%H:%M"), "23:59");
        assert_eq!(format_at(&then, &after, "%H:%M"), "2026-11-30 23:59");
        // The date changes at local midnight, not at midnight UTC.
        let next = time("2026-12-01T00:30:00+01:00[+01:00]");
        assert_eq!(format_at(&next, &after, "%H:%M:%S"), "00:30:00");
    }

    #[test]
    fn times_of_today_have_no_date() {
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
            localize_times(&format!(
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
            assert_eq!(localize_times(text), text);
        }
    }
}
