//! Floor 3: who may do what.
//!
//! [`deed`] is the list: every method with the actions it may ask polkit about; what is not listed
//! is refused. [`caller`] knows who is behind a bus name, and whether he is still there. [`gate`]
//! puts the two together, and [`polkit`] is the one place that talks to polkit.

pub mod caller;
pub mod deed;
pub mod gate;
mod identify;
mod lifelines;
mod names;
pub mod polkit;
mod questions;

use crate::service;
use deed::Action;

/// Why a caller may not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is not authorized, or the authorization could not be determined.
    #[error("cannot {deed}: not authorized for {}: {why}", action.id())]
    Denied {
        /// The action that needs authorization.
        action: Action,
        /// What was asked for, in words that follow "cannot".
        deed: String,
        /// The cause.
        why: String,
    },
    /// Authorization needs polkit, which is not running and cannot be started.
    #[error(
        "cannot {deed}: not authorized for {}: polkit is not running or not installed; only root \
         can use this service",
        action.id()
    )]
    NoPolkit {
        /// The action that needs authorization.
        action: Action,
        /// What was asked for, in words that follow "cannot".
        deed: String,
    },
    /// The caller could be asked for a password, but the call does not allow that.
    #[error(
        "cannot {deed}: {} needs interactive authorization, which the call does not allow",
        action.id()
    )]
    Interactive {
        /// The action that needs authorization.
        action: Action,
        /// What was asked for, in words that follow "cannot".
        deed: String,
    },
    /// A method that the list does not have, or an action that the list does not give it.
    #[error("{0} is not in the list of authorized methods")]
    Unlisted(String),
    /// He left the bus.
    #[error("the caller has left the bus")]
    CallerGone,
    /// The bus does not tell which user the caller's connection belongs to.
    #[error(
        "cannot identify the user of this connection: the bus did not respond in time; try again"
    )]
    Unanswered,
    /// He asks for too much at one time.
    #[error(transparent)]
    Limit(#[from] service::Error),
}

impl Error {
    /// The cause in a word, for the log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Denied { .. } | Self::NoPolkit { .. } => "not-authorized",
            Self::Interactive { .. } => "interactive",
            Self::Unlisted(_) => "unlisted",
            Self::CallerGone => "caller-gone",
            Self::Unanswered => "unanswered",
            Self::Limit(_) => "limit",
        }
    }
}
