//! Errors of the tool, with their messages and exit codes.
//!
//! [`exit`] has the exit codes, [`reply`] classifies error replies of the service and the bus, and
//! [`message`] formats them.

pub(crate) mod exit;
mod message;
mod reply;

use std::io;

use crate::cli::error::exit::Exit;
use crate::cli::error::message::{call_failure, connect_failure};
use crate::cli::error::reply::{ErrorReply, is_disconnected};
use crate::cli::format::clock;
use crate::client::Bus;
use crate::lock::text::escape::{reason, shown};
use crate::phrases::{AUTHORIZE, ONLY_ROOT, SET_FORCE};

/// The cause of a command's failure.
#[derive(Debug)]
pub(crate) enum Error {
    /// The connection to the bus failed.
    Connect(zbus::Error),
    /// The service or the bus replied with an error, or there was no reply.
    Call(zbus::Error),
    /// The bus closed the connection.
    ConnectionLost,
    /// An argument is wrong, given the disks, owners and locks that exist.
    Usage(String),
    /// There is no such disk, owner or lock.
    Missing(String),
    /// The service or the bus cannot be reached, for the reason in the message.
    Unavailable(String),
    /// Any other failure.
    Failed(String),
    /// An error reply of the service in the terms of this tool, with its exit code.
    Reworded(String, Exit),
    /// Standard output is a pipe whose reader has closed it. Not reported.
    OutputClosed,
    /// A signal interrupted the command.
    Interrupted(i32),
}

impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Self {
        Self::Call(error)
    }
}

impl From<zbus::fdo::Error> for Error {
    fn from(error: zbus::fdo::Error) -> Self {
        Self::Call(error.into())
    }
}

impl Error {
    /// Returns the error for a failed system call; `action` is its purpose, in the infinitive.
    pub(crate) fn system(action: &str, error: impl Into<io::Error>) -> Self {
        Self::Failed(format!("cannot {action}: {}", reason(&error.into())))
    }

    /// Returns the error reply of the service or the bus; `None` for any other failure.
    fn reply(&self) -> Option<ErrorReply> {
        match self {
            Self::Call(error) => ErrorReply::of(error),
            _ => None,
        }
    }

    /// Whether this is an error reply with this name.
    fn is_named(&self, name: &str) -> bool {
        self.reply().is_some_and(|reply| reply.name == name)
    }

    /// Whether the object of the call does not exist, or no longer exists.
    pub(crate) fn is_no_such_object(&self) -> bool {
        self.reply().is_some_and(|reply| {
            matches!(
                reply.name.as_str(),
                "org.freedesktop.DBus.Error.UnknownObject"
                    // An object that is being removed may have lost this interface already.
                    | "org.freedesktop.DBus.Error.UnknownInterface"
                    | "org.vmlockd1.Error.NoSuchLock"
                    | "org.vmlockd1.Error.NoSuchOwner"
            )
        })
    }

    /// Whether the service has ended, or is about to end, without having executed the request.
    pub(crate) fn is_service_gone(&self) -> bool {
        self.reply().is_some_and(|reply| reply.exit() == Exit::UNAVAILABLE)
    }

    /// Whether the service or the bus replied with an error, as opposed to a failure on the way.
    pub(crate) fn is_reply(&self) -> bool {
        self.reply().is_some()
    }

    /// Whether a name led to another file by the time it was locked.
    pub(crate) fn is_resource_changed(&self) -> bool {
        self.is_named("org.vmlockd1.Error.ResourceChanged")
    }

    /// Whether the service rejects a name since the caller is in another mount namespace.
    pub(crate) fn is_foreign_namespace(&self) -> bool {
        self.is_named("org.vmlockd1.Error.ForeignNamespace")
    }

    /// Whether a directory is not a lockspace.
    pub(crate) fn is_no_such_lockspace(&self) -> bool {
        self.is_named("org.vmlockd1.Error.NoSuchLockspace")
    }

    /// Whether the file of a name cannot be locked.
    pub(crate) fn is_not_lockable(&self) -> bool {
        self.is_named("org.vmlockd1.Error.NotLockable")
    }

    /// Whether the service breaks the lock of another owner only with the option `force`.
    pub(crate) fn needs_force(&self) -> bool {
        self.reply().is_some_and(|reply| reply.message.contains(SET_FORCE))
    }

    /// Returns the description of the holders, which may be empty, if polkit does not authorize
    /// this user for a disk; `None` for any other error.
    pub(crate) fn holders_of_refused_disk(&self) -> Option<String> {
        let reply = self.reply()?;
        let is_refused =
            reply.exit() == Exit::DENIED && reply.message.contains("org.vmlockd1.acquire-by-");
        is_refused.then(|| {
            // The service appends the holders to its advice.
            let ends = [AUTHORIZE, ONLY_ROOT].map(|advice| format!("{advice}; "));
            let holders = ends.iter().find_map(|end| reply.message.split_once(end));
            holders.map(|(_, holders)| clock::localize_times(holders)).unwrap_or_default()
        })
    }

    /// Whether a waiting request was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_named("org.vmlockd1.Error.WaitCancelled")
    }

    /// Whether the service is too old to have the method.
    pub(crate) fn is_unknown_method(&self) -> bool {
        self.is_named("org.freedesktop.DBus.Error.UnknownMethod")
    }

    /// Returns the message of an `org.freedesktop.DBus.Error.Failed`, the reply to a request that
    /// the service did not execute.
    pub(crate) fn failure_reason(&self) -> Option<String> {
        let reply = self.reply()?;
        (reply.name == "org.freedesktop.DBus.Error.Failed").then_some(reply.message)
    }

    /// Replaces the advice to set the option `force` by the advice to run `command`.
    pub(crate) fn with_force(self, command: &str) -> Self {
        match self.reply() {
            Some(reply) if reply.message.contains(SET_FORCE) => {
                let message = reply.message.replace(SET_FORCE, &format!("'{command}' breaks it"));
                Self::Reworded(message, reply.exit())
            }
            _ => self,
        }
    }

    /// Appends advice to the message.
    pub(crate) fn with_advice(self, bus: Bus, advice: &str) -> Self {
        match self.message(bus) {
            Some(message) if self.is_unavailable() => {
                Self::Unavailable(format!("{message}; {advice}"))
            }
            Some(message) => Self::Failed(format!("{message}; {advice}")),
            None => self,
        }
    }

    /// Whether the service cannot be reached.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.exit() == Exit::UNAVAILABLE
    }

    /// Returns the exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Connect(_) | Self::ConnectionLost | Self::Unavailable(_) => Exit::UNAVAILABLE,
            Self::Call(error) => match ErrorReply::of(error) {
                Some(reply) => reply.exit(),
                None if is_disconnected(error) => Exit::UNAVAILABLE,
                None => Exit::FAILURE,
            },
            Self::Usage(_) => Exit::USAGE,
            Self::Missing(_) => Exit::MISSING,
            Self::Failed(_) => Exit::FAILURE,
            Self::Reworded(_, exit) => *exit,
            Self::OutputClosed => Exit::SUCCESS,
            Self::Interrupted(signal) => Exit::Signal(*signal),
        }
    }

    /// Returns the message for standard error, if there is one.
    pub(crate) fn message(&self, bus: Bus) -> Option<String> {
        let text = match self {
            Self::Connect(error) => connect_failure(bus, error),
            Self::Call(error) => call_failure(bus, error),
            Self::ConnectionLost => {
                format!("the connection to the {} bus is lost; try again", bus.as_str())
            }
            Self::Usage(text)
            | Self::Missing(text)
            | Self::Unavailable(text)
            | Self::Failed(text)
            | Self::Reworded(text, _) => text.clone(),
            Self::OutputClosed | Self::Interrupted(_) => return None,
        };
        // Text of other users must stay on one line, and must not control the terminal.
        Some(shown(&text))
    }
}

#[cfg(test)]
mod tests;
