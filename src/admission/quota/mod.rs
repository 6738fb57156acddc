//! Quotas on calls, and the order in which calls are dispatched. No I/O.
//!
//! 1. [`call`] is a call that was admitted or refused.
//! 2. [`scheduler`] decides which calls are admitted, and which is dispatched next. It counts the
//!    [`usage`] of each connection and each user, and bounds rates by a [`token_bucket`].
//! 3. [`refusal`] is the reason why a call is refused; [`refusal_queue`] throttles the answers.
//! 4. [`pending_replies`] are the service's own calls, to which replies are accepted.

pub(in crate::admission) mod call;
pub(in crate::admission) mod pending_replies;
pub(in crate::admission) mod refusal;
pub(in crate::admission) mod refusal_queue;
pub(in crate::admission) mod scheduler;
mod token_bucket;
mod usage;
