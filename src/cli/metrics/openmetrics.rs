//! Numbers as `OpenMetrics` 1.0 has them written; Prometheus's older format reads the same text.

use std::fmt::Write as _;

use zbus::Variant;

use crate::cli::format::row;
use crate::client::Row;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The current amount.
    Gauge,
    /// A number that only increases.
    Counter,
    /// A time since the epoch.
    Time,
    /// A distribution of durations.
    Histogram,
}

/// The service's keys, in the order in which they are told. A key of a newer one is left out.
const NUMBERS: [(&str, Kind, &str); 23] = {
    use Kind::{Counter, Gauge, Histogram, Time};
    [
        ("since-usec", Time, "The time at which the service was started."),
        ("owners", Gauge, "Owners, which are VMs that may hold locks."),
        ("locks", Gauge, "Locks that are held."),
        ("lost", Gauge, "Locks that are lost; others may be using the disk."),
        ("waiting", Gauge, "Requests that are waiting."),
        ("mounts-unresponsive", Gauge, "Mounts whose storage does not respond."),
        ("requests-hung", Gauge, "Requests that storage has not answered."),
        ("owners-opened", Counter, "Owners that were opened."),
        ("owners-ended", Counter, "Owners that ended."),
        ("locks-restored", Counter, "Locks that existed when the service was started."),
        ("locks-granted", Counter, "Locks that were granted."),
        ("locks-released", Counter, "Locks that were released, for any reason."),
        ("locks-forced", Counter, "Locks that were broken with the option 'force'."),
        ("locks-lost", Counter, "Locks that were lost."),
        ("locks-regained", Counter, "Lost locks that were regained."),
        ("requests-refused", Counter, "Requests refused because a resource was not free."),
        (
            "requests-refused-hung",
            Counter,
            "Requests refused because a local file system had left too many others unanswered.",
        ),
        ("requests-waited", Counter, "Requests that have waited."),
        ("requests-timed-out", Counter, "Requests that waited until they timed out."),
        ("requests-cancelled", Counter, "Requests that waited until they were cancelled."),
        ("requests-denied", Counter, "Requests whose caller was not authorized."),
        ("grant-usec", Histogram, "Time from arrival to grant of requests that did not wait."),
        ("wait-usec", Histogram, "Time that requests waited."),
    ]
};

/// Gauges by their former names, for monitoring that uses these: the name, the key in `GetMetrics`, and
/// the description.
const FORMER: [(&str, &str, &str); 1] =
    [("requests_stuck", "requests-hung", "The former name of vmlockd_requests_hung.")];

/// All of it.
pub(crate) fn text(metrics: &Row, version: &str) -> String {
    let mut text = String::new();
    // A gauge: the older format knows no type for this.
    head(&mut text, "build_info", "gauge", "The version of the service.");
    let version = version.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    say(&mut text, format_args!("vmlockd_build_info{{version=\"{version}\"}} 1"));
    for (key, kind, help) in NUMBERS {
        // An older service does not tell.
        if metrics.contains_key(key) {
            number(&mut text, metrics, key, kind, help);
        }
    }
    for (name, key, help) in FORMER {
        if metrics.contains_key(key) {
            gauge(&mut text, name, row::number(metrics, key), help);
        }
    }
    text.push_str("# EOF\n");
    text
}

fn number(text: &mut String, metrics: &Row, key: &str, kind: Kind, help: &str) {
    let name = key.replace('-', "_");
    let n = row::number(metrics, key);
    match kind {
        Kind::Gauge => gauge(text, &name, n, help),
        Kind::Counter => {
            head(text, &name, "counter", help);
            say(text, format_args!("vmlockd_{name}_total {n}"));
        }
        Kind::Time => {
            let name = "start_time_seconds";
            head(text, name, "gauge", help);
            say(text, format_args!("vmlockd_{name} {}", seconds(n)));
        }
        Kind::Histogram => {
            let name = name.replace("_usec", "_seconds");
            head(text, &name, "histogram", help);
            for (bound, count) in pairs(metrics, key) {
                let bound = seconds(bound);
                say(text, format_args!("vmlockd_{name}_bucket{{le=\"{bound}\"}} {count}"));
            }
            let count = row::number(metrics, &key.replace("-usec", "-count"));
            say(text, format_args!("vmlockd_{name}_bucket{{le=\"+Inf\"}} {count}"));
            let sum = seconds(row::number(metrics, &format!("{key}-sum")));
            say(text, format_args!("vmlockd_{name}_sum {sum}"));
            say(text, format_args!("vmlockd_{name}_count {count}"));
        }
    }
}

fn gauge(text: &mut String, name: &str, n: u64, help: &str) {
    head(text, name, "gauge", help);
    say(text, format_args!("vmlockd_{name} {n}"));
}

/// What is said of a metric before its values.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    say(text, format_args!("# TYPE vmlockd_{name} {kind}"));
    if name.ends_with("_seconds") {
        say(text, format_args!("# UNIT vmlockd_{name} seconds"));
    }
    say(text, format_args!("# HELP vmlockd_{name} {help}"));
}

fn say(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String has no way to fail.
    let _ = writeln!(text, "{line}");
}

/// Microseconds as seconds, to the last digit; one behind the point at least, as bounds must have.
fn seconds(usec: u64) -> String {
    let digits = format!("{:06}", usec % 1_000_000);
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    format!("{}.{digits}", usec / 1_000_000)
}

/// Bounds and counts.
fn pairs(metrics: &Row, key: &str) -> Vec<(u64, u64)> {
    let Some(Variant::Array(array)) = metrics.get(key).map(|value| &**value) else {
        return Vec::new();
    };
    let pair = |value: &Variant<'_>| match value {
        Variant::Structure(fields) => match fields.fields() {
            [Variant::U64(bound), Variant::U64(count)] => Some((*bound, *count)),
            _ => None,
        },
        _ => None,
    };
    array.inner().iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use zbus::OwnedVariant;

    use super::*;

    #[test]
    fn seconds_to_the_last_digit() {
        for (usec, text) in
            [(0, "0.0"), (50, "0.00005"), (1_000_000, "1.0"), (12_345_678, "12.345678")]
        {
            assert_eq!(seconds(usec), text);
        }
    }

    #[test]
    fn a_text_has_what_there_is_and_ends() {
        let value = |value: Variant<'static>| OwnedVariant::try_from(value).unwrap();
        let metrics = Row::from([
            ("locks".to_owned(), value(3_u64.into())),
            ("locks-granted".to_owned(), value(5_u64.into())),
            ("grant-usec".to_owned(), value(vec![(100_u64, 2_u64)].into())),
            ("grant-count".to_owned(), value(5_u64.into())),
            ("grant-usec-sum".to_owned(), value(1_500_u64.into())),
            ("a-newer-one".to_owned(), value("x".into())),
        ]);
        let expected = "\
# TYPE vmlockd_build_info gauge
# HELP vmlockd_build_info The version of the service.
vmlockd_build_info{version=\"0.1\"} 1
# TYPE vmlockd_locks gauge
# HELP vmlockd_locks Locks that are held.
vmlockd_locks 3
# TYPE vmlockd_locks_granted counter
# HELP vmlockd_locks_granted Locks that were granted.
vmlockd_locks_granted_total 5
# TYPE vmlockd_grant_seconds histogram
# UNIT vmlockd_grant_seconds seconds
# HELP vmlockd_grant_seconds Time from arrival to grant of requests that did not wait.
vmlockd_grant_seconds_bucket{le=\"0.0001\"} 2
vmlockd_grant_seconds_bucket{le=\"+Inf\"} 5
vmlockd_grant_seconds_sum 0.0015
vmlockd_grant_seconds_count 5
# EOF
";
        assert_eq!(text(&metrics, "0.1"), expected);
    }
}
