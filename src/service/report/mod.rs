//! Reports: the event log ([`event_log`]), metrics ([`metrics`]), and refusals in
//! words ([`describe`]) with the names of users ([`user_names`]).

pub mod describe;
pub mod event_log;
pub mod metrics;
pub(super) mod user_names;
