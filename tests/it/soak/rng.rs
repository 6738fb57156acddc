//! Chance that can be had again: the same seed, the same choices.

use std::cell::Cell;
use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// A sequence of numbers that nobody expects, and everybody can repeat.
#[derive(Debug)]
pub(crate) struct Rng(Cell<u64>);

/// The seed of this run: told, or another one each time.
pub(crate) fn seed(variable: &str) -> u64 {
    if let Ok(text) = env::var(variable) {
        return text.parse().unwrap_or_else(|e| panic!("{variable}: {e}"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ now.as_secs() << 20
}

impl Rng {
    /// Those of a seed; each `who` has his own.
    pub(crate) fn new(seed: u64, who: u64) -> Self {
        Self(Cell::new(seed.wrapping_add(who.wrapping_mul(0xd134_2543_de82_ef95))))
    }

    /// The next number (splitmix64).
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from zero up to, and without, `end`.
    pub(crate) fn below(&self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap();
        usize::try_from(self.next() % end.max(1)).unwrap()
    }

    /// True so many times of a hundred.
    pub(crate) fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Up to `most` of these, and at least one if there is one.
    pub(crate) fn some<T: Clone>(&self, from: &[T], most: usize) -> Vec<T> {
        let mut from = from.to_vec();
        let count = if from.is_empty() { 0 } else { 1 + self.below(most.min(from.len())) };
        (0..count).map(|_| from.swap_remove(self.below(from.len()))).collect()
    }
}
