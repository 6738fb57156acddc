//! Floor 3: authorization of D-Bus calls.
//!
//! Read [`authorizer`] first: every call passes it. A call uses these files, in this order:
//!
//! 1. `identify`: the identification of its connection, with retries and a `check_queue` of checks
//!    to polkit.
//! 2. [`methods`]: the authorization table, which lists every method with the polkit actions
//!    ([`action`]) that it may check. A method that is not in the table is refused.
//! 3. [`caller`]: the user and process of its connection, and whether the client is still
//!    connected. `bus_driver` queries the bus for both.
//! 4. [`polkit`]: the check of an action. No other file communicates with polkit.
//!
//! `lifeline_throttle` limits how fast a user receives lifelines.

pub mod action;
pub mod authorizer;
mod bus_driver;
pub mod caller;
mod check_queue;
mod identify;
mod lifeline_throttle;
pub mod methods;
pub mod polkit;

use crate::phrases::ONLY_ROOT;
use crate::service;
use action::Action;

/// The reason for which a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is not authorized, or the authorization could not be determined.
    #[error("cannot {request}: not authorized for {}: {why}", action.id())]
    Denied {
        /// The action that needs authorization.
        action: Action,
        /// The request, in words that follow "cannot".
        request: String,
        /// The cause.
        why: String,
    },
    /// Authorization needs polkit, which is not running and cannot be started.
    #[error(
        "cannot {request}: not authorized for {}: polkit is not running or not installed; {ONLY_ROOT}",
        action.id()
    )]
    NoPolkit {
        /// The action that needs authorization.
        action: Action,
        /// The request, in words that follow "cannot".
        request: String,
    },
    /// The user could be prompted for a password, but the call does not allow that.
    #[error(
        "cannot {request}: {} needs interactive authorization, which the call does not allow",
        action.id()
    )]
    Interactive {
        /// The action that needs authorization.
        action: Action,
        /// The request, in words that follow "cannot".
        request: String,
    },
    /// A method that is not in the authorization table, or an action that the table does not list
    /// for the method.
    #[error("{0} is not in the list of authorized methods")]
    Unlisted(String),
    /// The caller has disconnected from the bus.
    #[error("the caller has left the bus")]
    CallerGone,
    /// The bus did not report the user of the caller's connection in time.
    #[error(
        "cannot identify the user of this connection: the bus did not respond in time; try again"
    )]
    BusTimeout,
    /// The user of the caller has reached a limit.
    #[error(transparent)]
    Limit(#[from] service::Error),
}

impl Error {
    /// Returns the keyword of the cause that the log contains.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Denied { .. } | Self::NoPolkit { .. } => "not-authorized",
            Self::Interactive { .. } => "interactive",
            Self::Unlisted(_) => "unlisted",
            Self::CallerGone => "caller-gone",
            Self::BusTimeout => "unanswered",
            Self::Limit(_) => "limit",
        }
    }
}
