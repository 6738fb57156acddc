//! Basics that every other room of the service uses: errors ([`error`]), limits and quotas
//! ([`limits`]), settings ([`settings`]), clocks ([`clock`]), and the owner of locks whose records
//! are damaged ([`suspect`]).

pub(super) mod clock;
pub(super) mod error;
pub mod limits;
pub(super) mod settings;
pub(super) mod suspect;
