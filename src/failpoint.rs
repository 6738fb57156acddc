//! Failpoints: named points in the code at which a test makes the service abort.
//!
//! The invariants that must hold after a crash are tested by a crash at every failpoint. In a release
//! build, a failpoint does nothing.

/// Aborts the process if `$VMLOCKD_ABORT_AT` is `name`, or is `name:n` and this is the n-th call with
/// that name.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static ACTIVE: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    let active = ACTIVE.get_or_init(|| {
        let text = std::env::var("VMLOCKD_ABORT_AT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((active, count)) = active
        && active == name
        && CALLS.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        eprintln!("vmlockd: aborting at {name}, as told");
        std::process::abort();
    }
}

/// A failpoint of a release build, which does nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub fn failpoint(_name: &str) {}
