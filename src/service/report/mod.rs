//! Reports of the service: the event log ([`event_log`]), metrics ([`metrics`]), descriptions of
//! refusals ([`describe`]) and holder records for other hosts ([`holder_record`]).

pub mod describe;
pub mod event_log;
pub(super) mod holder_record;
pub mod metrics;
pub(super) mod refusals;
pub(super) mod user_names;
