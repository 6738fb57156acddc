//! Metrics: counters and histograms for the monitoring of a host.
//!
//! All counters start at zero with the program, except that restored locks are counted at once; so
//! the locks restored and granted, minus those released, are the locks that exist. Each counter is
//! updated separately: a snapshot of all of them may differ by the events in progress.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Event;
use crate::service::core::clock::now;

/// The upper bounds of the buckets for the time to a grant, in microseconds.
const GRANTS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// The upper bounds of the buckets for the time of a wait, in microseconds. A wait for a disk lasts
/// until a VM ends, which may be hours.
const WAITS: [u64; 12] = [
    1_000,
    10_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    28_800_000_000,
];

/// A counter that only grows.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, more: usize) {
        self.0.fetch_add(u64::try_from(more).unwrap_or_default(), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram of durations.
#[derive(Debug)]
struct Times<const N: usize> {
    bounds: &'static [u64; N],
    /// For each bound, the number of durations up to this bound and above the previous one.
    counts: [AtomicU64; N],
    longer: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Times<N> {
    fn within(bounds: &'static [u64; N]) -> Self {
        let counts = array::from_fn(|_| AtomicU64::new(0));
        Self { bounds, counts, longer: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    fn add(&self, time: Duration) {
        let usec = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| *bound < usec);
        self.counts.get(place).unwrap_or(&self.longer).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(usec, Ordering::Relaxed);
    }

    fn read(&self) -> Histogram {
        let mut count = 0;
        let mut bucket = |(bound, more): (&u64, &AtomicU64)| {
            count += more.load(Ordering::Relaxed);
            (*bound, count)
        };
        let buckets = self.bounds.iter().zip(&self.counts).map(&mut bucket).collect();
        count += self.longer.load(Ordering::Relaxed);
        Histogram { buckets, count, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// The counters of the service.
#[derive(Debug)]
pub struct Metrics {
    since: u64,
    opened: Counter,
    ended: Counter,
    restored: Counter,
    granted: Counter,
    released: Counter,
    broken: Counter,
    lost: Counter,
    regained: Counter,
    refused: Counter,
    waited: Counter,
    timed_out: Counter,
    cancelled: Counter,
    denied: Counter,
    grants: Times<{ GRANTS.len() }>,
    waits: Times<{ WAITS.len() }>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            since: now(),
            opened: Counter::default(),
            ended: Counter::default(),
            restored: Counter::default(),
            granted: Counter::default(),
            released: Counter::default(),
            broken: Counter::default(),
            lost: Counter::default(),
            regained: Counter::default(),
            refused: Counter::default(),
            waited: Counter::default(),
            timed_out: Counter::default(),
            cancelled: Counter::default(),
            denied: Counter::default(),
            grants: Times::within(&GRANTS),
            waits: Times::within(&WAITS),
        }
    }
}

impl Metrics {
    /// Counts an owner that was opened.
    pub fn opened(&self) {
        self.opened.add(1);
    }

    /// Counts an owner that has ended.
    pub fn ended(&self) {
        self.ended.add(1);
    }

    /// Counts locks that were restored from the previous instance of the program.
    pub fn restored(&self, locks: usize) {
        self.restored.add(locks);
    }

    /// Counts locks that were granted to a request that started at `begun`. The duration is
    /// recorded unless the request waited ([`Self::waited`] records that) or was granted no new
    /// lock.
    pub fn granted(&self, locks: usize, begun: Instant, waited: bool) {
        self.granted.add(locks);
        if locks > 0 && !waited {
            self.grants.add(begun.elapsed());
        }
    }

    /// Counts the releases among these events.
    pub fn released(&self, events: &[Event]) {
        let ends = events.iter().filter(|event| matches!(event, Event::LockReleased(..)));
        self.released.add(ends.count());
    }

    /// Counts the locks that were transferred to another owner, each as granted and as released.
    pub fn moved(&self, events: &[Event]) {
        let given = events.iter().filter(|event| matches!(event, Event::LockAcquired(_)));
        self.granted.add(given.count());
        self.released(events);
    }

    /// Counts locks whose release was forced.
    pub fn broken(&self, locks: usize) {
        self.broken.add(locks);
    }

    /// Counts a lock that was found lost.
    pub fn lost(&self) {
        self.lost.add(1);
    }

    /// Counts a lost lock that is held again.
    pub fn regained(&self) {
        self.regained.add(1);
    }

    /// Counts a request that was refused because of another holder.
    pub fn refused(&self) {
        self.refused.add(1);
    }

    /// Counts a request that waited, and records for how long, whatever its outcome.
    pub fn waited(&self, time: Duration) {
        self.waited.add(1);
        self.waits.add(time);
    }

    /// Counts a wait that timed out; [`Self::waited`] is called as well.
    pub fn timed_out(&self) {
        self.timed_out.add(1);
    }

    /// Counts a wait that was cancelled; [`Self::waited`] is called as well.
    pub fn cancelled(&self) {
        self.cancelled.add(1);
    }

    /// Counts a request whose caller is not authorized.
    pub fn denied(&self) {
        self.denied.add(1);
    }

    /// Returns a snapshot of all counters and histograms, together with these gauges.
    #[must_use]
    pub(in crate::service) fn snapshot(&self, gauges: &Gauges) -> MetricsSnapshot {
        let gauge = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let numbers = vec![
            ("owners", gauge(gauges.owners)),
            ("locks", gauge(gauges.locks)),
            ("lost", gauge(gauges.lost)),
            ("waiting", gauge(gauges.waiting)),
            ("mounts-unresponsive", gauge(gauges.mounts_unresponsive)),
            ("requests-hung", gauge(gauges.requests_hung)),
            ("owners-opened", self.opened.read()),
            ("owners-ended", self.ended.read()),
            ("locks-restored", self.restored.read()),
            ("locks-granted", self.granted.read()),
            ("locks-released", self.released.read()),
            ("locks-forced", self.broken.read()),
            ("locks-lost", self.lost.read()),
            ("locks-regained", self.regained.read()),
            ("requests-refused", self.refused.read()),
            ("requests-refused-hung", gauges.requests_refused_hung),
            ("requests-waited", self.waited.read()),
            ("requests-timed-out", self.timed_out.read()),
            ("requests-cancelled", self.cancelled.read()),
            ("requests-denied", self.denied.read()),
        ];
        let (grants, waits) = (self.grants.read(), self.waits.read());
        MetricsSnapshot { since: self.since, numbers, grants, waits }
    }
}

/// Values that are measured when a snapshot is taken.
#[derive(Debug)]
pub(in crate::service) struct Gauges {
    pub(in crate::service) owners: usize,
    pub(in crate::service) locks: usize,
    pub(in crate::service) lost: usize,
    pub(in crate::service) waiting: usize,
    pub(in crate::service) mounts_unresponsive: usize,
    pub(in crate::service) requests_hung: usize,
    /// A counter of the executor.
    pub(in crate::service) requests_refused_hung: u64,
}

/// A histogram of durations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Upper bounds in microseconds, each with the number of durations up to it (cumulative).
    pub buckets: Vec<(u64, u64)>,
    /// The number of all durations, including those above the last bound.
    pub count: u64,
    /// The sum of all durations, in microseconds.
    pub sum: u64,
}

/// A snapshot of all counters, gauges and histograms.
#[derive(Debug, Clone)]
pub struct MetricsSnapshot {
    /// When counting started, in microseconds since 1970.
    pub since: u64,
    /// Counters and gauges by their keys on the bus.
    pub numbers: Vec<(&'static str, u64)>,
    /// Times to a grant.
    pub grants: Histogram,
    /// Times of waits.
    pub waits: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_in_higher_ones() {
        let times = Times::within(&GRANTS);
        for usec in [0, 50, 51, 2_000_000, 3_600_000_000] {
            times.add(Duration::from_micros(usec));
        }
        let Histogram { buckets, count, sum } = times.read();
        assert_eq!((count, sum), (5, 3_602_000_101));
        assert_eq!(buckets.len(), GRANTS.len());
        let of = |bound: u64| buckets.iter().find(|(upper, _)| *upper == bound).unwrap().1;
        assert_eq!([of(50), of(100), of(1_000_000), of(2_500_000)], [2, 3, 3, 4]);
        assert_eq!(buckets.last(), Some(&(10_000_000, 4)));
        for bounds in [&GRANTS[..], &WAITS[..]] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }
}
