//! Formats metrics by `OpenMetrics` 1.0. The text is also valid in the older format of Prometheus.

use std::fmt::Write as _;

use zbus::Variant;

use crate::cli::format::row;
use crate::client::Row;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    /// The current amount.
    Gauge,
    /// A number that only increases.
    Counter,
    /// A time since the epoch.
    Time,
    /// A distribution of durations.
    Histogram,
}

/// The keys of the service's metrics, in the order of the output. Keys of a newer service are not
/// printed.
const METRICS: [(&str, MetricKind, &str); 23] = {
    use MetricKind::{Counter, Gauge, Histogram, Time};
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

/// Gauges by their former names, for monitoring that uses these: the name, the key in `GetMetrics`,
/// and the description.
const DEPRECATED: [(&str, &str, &str); 1] =
    [("requests_stuck", "requests-hung", "The former name of vmlockd_requests_hung.")];

/// Formats all metrics.
pub(crate) fn text(metrics: &Row, version: &str) -> String {
    let mut text = String::new();
    // A gauge, as the older format has no type for this.
    push_header(&mut text, "build_info", "gauge", "The version of the service.");
    let version = version.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    push_line(&mut text, format_args!("vmlockd_build_info{{version=\"{version}\"}} 1"));
    for (key, kind, help) in METRICS {
        // An older service does not have this metric.
        if metrics.contains_key(key) {
            push_metric(&mut text, metrics, key, kind, help);
        }
    }
    for (name, key, help) in DEPRECATED {
        if metrics.contains_key(key) {
            push_gauge(&mut text, name, row::number(metrics, key), help);
        }
    }
    text.push_str("# EOF\n");
    text
}

/// Appends a metric.
fn push_metric(text: &mut String, metrics: &Row, key: &str, kind: MetricKind, help: &str) {
    let name = key.replace('-', "_");
    let n = row::number(metrics, key);
    match kind {
        MetricKind::Gauge => push_gauge(text, &name, n, help),
        MetricKind::Counter => {
            push_header(text, &name, "counter", help);
            push_line(text, format_args!("vmlockd_{name}_total {n}"));
        }
        MetricKind::Time => {
            let name = "start_time_seconds";
            push_header(text, name, "gauge", help);
            push_line(text, format_args!("vmlockd_{name} {}", seconds(n)));
        }
        MetricKind::Histogram => {
            let name = name.replace("_usec", "_seconds");
            push_header(text, &name, "histogram", help);
            for (bound, count) in buckets(metrics, key) {
                let bound = seconds(bound);
                push_line(text, format_args!("vmlockd_{name}_bucket{{le=\"{bound}\"}} {count}"));
            }
            let count = row::number(metrics, &key.replace("-usec", "-count"));
            push_line(text, format_args!("vmlockd_{name}_bucket{{le=\"+Inf\"}} {count}"));
            let sum = seconds(row::number(metrics, &format!("{key}-sum")));
            push_line(text, format_args!("vmlockd_{name}_sum {sum}"));
            push_line(text, format_args!("vmlockd_{name}_count {count}"));
        }
    }
}

/// Appends a gauge.
fn push_gauge(text: &mut String, name: &str, n: u64, help: &str) {
    push_header(text, name, "gauge", help);
    push_line(text, format_args!("vmlockd_{name} {n}"));
}

/// Appends the type, unit and description of a metric.
fn push_header(text: &mut String, name: &str, kind: &str, help: &str) {
    push_line(text, format_args!("# TYPE vmlockd_{name} {kind}"));
    if name.ends_with("_seconds") {
        push_line(text, format_args!("# UNIT vmlockd_{name} seconds"));
    }
    push_line(text, format_args!("# HELP vmlockd_{name} {help}"));
}

/// Appends a line.
fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let _ = writeln!(text, "{line}");
}

/// Formats microseconds as seconds, with at least one decimal place, as required for bounds.
fn seconds(usec: u64) -> String {
    let digits = format!("{:06}", usec % 1_000_000);
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    format!("{}.{digits}", usec / 1_000_000)
}

/// Returns the bounds and counts of a histogram.
fn buckets(metrics: &Row, key: &str) -> Vec<(u64, u64)> {
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
    fn seconds_are_exact() {
        for (usec, text) in
            [(0, "0.0"), (50, "0.00005"), (1_000_000, "1.0"), (12_345_678, "12.345678")]
        {
            assert_eq!(seconds(usec), text);
        }
    }

    #[test]
    fn only_existing_metrics_are_printed() {
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
