//! The places between two steps, where a test can have the service die.
//!
//! What must hold after a crash at any moment is proven by crashing at every moment that counts.
//! In a build for use this is nothing.

/// A place between two steps. Where `$VMLOCKD_ABORT_AT` names it, the service aborts there; with
/// `:n` behind the name, when it comes by for the n-th time.
#[cfg(debug_assertions)]
pub fn step(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static WANTED: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static PASSED: AtomicUsize = AtomicUsize::new(0);

    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("VMLOCKD_ABORT_AT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((place, count)) = wanted
        && place == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        eprintln!("vmlockd: aborting at {name}, as told");
        std::process::abort();
    }
}

/// A place between two steps.
#[cfg(not(debug_assertions))]
#[inline]
pub fn step(_name: &str) {}
