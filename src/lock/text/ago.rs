//! Formats the time since an event.

/// Formats an age, such as "5 s ago", of an instant in microseconds since 1970. Empty for an
/// instant in the future, which the clock of another host may produce.
#[must_use]
pub fn age(then: u64, now: u64) -> String {
    let Some(seconds) = now.checked_sub(then).map(|micros| micros / 1_000_000) else {
        return String::new();
    };
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let ago = |seconds: u64| age(1_000_000, 1_000_000 + seconds * 1_000_000);
        for (seconds, expected) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (7200, "2 h ago"),
            (86_400, "24 h ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(ago(seconds), expected);
        }
        assert_eq!(age(2, 1), "");
        assert_eq!(age(0, u64::MAX), "213503982 days ago");
    }
}
