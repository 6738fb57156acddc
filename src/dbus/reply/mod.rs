//! Replies of methods: rows are encoded as [`dictionary`] values, and [`large`] replies are
//! bounded, built on worker threads and throttled.

pub(super) mod dictionary;
pub(super) mod large;
