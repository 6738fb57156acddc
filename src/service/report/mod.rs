//! What the service reports: the event log ([`event_log`]), metrics ([`metrics`]), refusals in words
//! ([`describe`]) and holder records for other hosts ([`holder_record`]).

pub mod describe;
pub mod event_log;
pub(super) mod holder_record;
pub mod metrics;
pub(super) mod refusals;
pub(super) mod user_names;
