//! Errors of the tool, with their messages and exit codes.

pub(crate) mod exit_code;

use std::io;
use std::path::Path;

use nix::errno::Errno;
use zbus::DBusError;

use crate::cli::error::exit_code::Code;
use crate::cli::format::clock;
use crate::client::Bus;
use crate::lock::printable::shown;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Error {
    /// There is no way to the bus.
    Connect(zbus::Error),
    /// The service or the bus answered with an error, or there was no answer.
    Call(zbus::Error),
    /// The bus closed the connection.
    Lost,
    /// An argument is wrong, given the disks, owners and locks that exist.
    Usage(String),
    /// There is no such disk, owner or lock.
    Missing(String),
    /// The service or the bus cannot be reached; the message says why.
    Absent(String),
    /// Anything else.
    Failed(String),
    /// A reply of the service in words of this tool, with its exit code.
    Answered(String, Code),
    /// The reader has closed the pipe that is standard output: nothing to report.
    ReaderGone,
    /// A signal ended it before it was done.
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
    /// A failed system call; `action` is what it was for, in the infinitive.
    pub(crate) fn system(action: &str, error: impl Into<io::Error>) -> Self {
        Self::Failed(format!("cannot {action}: {}", cause(&error.into())))
    }

    /// Whether what was called is not, or no longer, there.
    pub(crate) fn is_no_such_object(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| {
            matches!(
                name.as_str(),
                "org.freedesktop.DBus.Error.UnknownObject"
                    // An object that is being removed may have lost this interface already.
                    | "org.freedesktop.DBus.Error.UnknownInterface"
                    | "org.vmlockd1.Error.NoSuchLock"
                    | "org.vmlockd1.Error.NoSuchOwner"
            )
        })
    }

    /// Whether the service has ended, or is about to, before it did what it was asked.
    pub(crate) fn is_end_of_service(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| code_of(&name) == Code::UNAVAILABLE)
    }

    /// Whether this is what the service or the bus answered, and not a failure on the way.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Call(error) if answer(error).is_some())
    }

    /// Whether a name led to another file by the time it was locked.
    pub(crate) fn is_change(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| name == "org.vmlockd1.Error.ResourceChanged")
    }

    /// Whether a name is not proven to mean the same to the service as to this process.
    pub(crate) fn is_foreign(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| name == "org.vmlockd1.Error.ForeignNamespace")
    }

    /// Whether a directory is not a lockspace.
    pub(crate) fn is_no_such_lockspace(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| name == "org.vmlockd1.Error.NoSuchLockspace")
    }

    /// Whether the service says that what a name leads to cannot be locked.
    pub(crate) fn is_not_lockable(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| name == "org.vmlockd1.Error.NotLockable")
    }

    /// Whether the service breaks the lock of another owner only by force.
    pub(crate) fn needs_force(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(_, message)| message.contains(FORCE))
    }

    /// For a disk that polkit refuses to this user: what the service says of its holders, if
    /// anything. `None` for any other error.
    pub(crate) fn refused_disk(&self) -> Option<String> {
        let Self::Call(error) = self else { return None };
        let (_, message) = answer(error).filter(|(name, message)| {
            code_of(name) == Code::DENIED && message.contains("org.vmlockd1.acquire-by-")
        })?;
        let end = AUTHORIZE.iter().find_map(|end| message.split_once(end));
        Some(end.map(|(_, holders)| clock::localized(holders)).unwrap_or_default())
    }

    /// Whether a wait was withdrawn.
    pub(crate) fn is_cancelled(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| name == "org.vmlockd1.Error.WaitCancelled")
    }

    /// Whether the service is older than what is asked of it.
    pub(crate) fn is_unknown_method(&self) -> bool {
        let Self::Call(error) = self else { return false };
        answer(error).is_some_and(|(name, _)| name == "org.freedesktop.DBus.Error.UnknownMethod")
    }

    /// The service's reason for an `org.freedesktop.DBus.Error.Failed`: it did not do what was asked.
    pub(crate) fn refusal(&self) -> Option<String> {
        let Self::Call(error) = self else { return None };
        let (_, message) =
            answer(error).filter(|(name, _)| name == "org.freedesktop.DBus.Error.Failed")?;
        Some(message)
    }

    /// The same error, which advises to run `command` where the service advises to set `force`.
    pub(crate) fn with_force(self, command: &str) -> Self {
        let Self::Call(error) = &self else { return self };
        match answer(error) {
            Some((name, message)) if message.contains(FORCE) => {
                let message = message.replace(FORCE, &format!("'{command}' breaks it"));
                Self::Answered(message, code_of(&name))
            }
            _ => self,
        }
    }

    /// Adds to the message what to do.
    pub(crate) fn with_advice(self, bus: Bus, advice: &str) -> Self {
        let code = self.code();
        match self.message(bus) {
            Some(message) if code == Code::UNAVAILABLE => {
                Self::Absent(format!("{message}; {advice}"))
            }
            Some(message) => Self::Failed(format!("{message}; {advice}")),
            None => self,
        }
    }

    /// Whether the service cannot be reached.
    pub(crate) fn is_absence(&self) -> bool {
        self.code() == Code::UNAVAILABLE
    }

    /// The exit code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Connect(_) | Self::Lost | Self::Absent(_) => Code::UNAVAILABLE,
            Self::Call(error) => match answer(error) {
                Some((name, _)) => code_of(&name),
                None if is_broken(error) => Code::UNAVAILABLE,
                None => Code::FAILURE,
            },
            Self::Usage(_) => Code::USAGE,
            Self::Missing(_) => Code::MISSING,
            Self::Failed(_) => Code::FAILURE,
            Self::Answered(_, code) => *code,
            Self::ReaderGone => Code::SUCCESS,
            Self::Interrupted(signal) => Code::Signal(*signal),
        }
    }

    /// Returns the message for standard error, if there is one.
    pub(crate) fn message(&self, bus: Bus) -> Option<String> {
        let text = match self {
            Self::Connect(error) => no_bus(bus, error),
            Self::Call(error) => no_success(bus, error),
            Self::Lost => {
                format!("the connection to the {} bus is lost; try again", bus.as_str())
            }
            Self::Usage(text)
            | Self::Missing(text)
            | Self::Absent(text)
            | Self::Failed(text)
            | Self::Answered(text, _) => text.clone(),
            Self::ReaderGone | Self::Interrupted(_) => return None,
        };
        // Text of other users must stay on one line, and must not control the terminal.
        Some(shown(&text))
    }
}

/// Why a system call failed, without its number.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// The name and message of an error that the service or the bus answered with; `None` for a failure on
/// the way.
fn answer(error: &zbus::Error) -> Option<(String, String)> {
    match error {
        zbus::Error::MethodError(name, message, _) => {
            Some((name.to_string(), message.clone().unwrap_or_default()))
        }
        zbus::Error::FDO(error) => match error.as_ref() {
            zbus::fdo::Error::ZBus(error) => answer(error),
            error => {
                Some((error.name().to_string(), error.description().unwrap_or_default().to_owned()))
            }
        },
        _ => None,
    }
}

/// Whether the connection to the bus is lost.
fn is_broken(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_)
        | zbus::Error::Connection(..)
        | zbus::Error::Handshake(_)
        | zbus::Error::Address(_) => true,
        zbus::Error::FDO(error) => match error.as_ref() {
            zbus::fdo::Error::ZBus(error) => is_broken(error),
            _ => false,
        },
        _ => false,
    }
}

fn code_of(name: &str) -> Code {
    if let Some(name) = name.strip_prefix("org.vmlockd1.Error.") {
        return match name {
            "LockHeld" | "LockHeldElsewhere" | "WaitTimedOut" => Code::HELD,
            "NoSuchOwner" | "NoSuchLock" | "NoSuchLockspace" => Code::MISSING,
            "ShuttingDown" => Code::UNAVAILABLE,
            _ => Code::FAILURE,
        };
    }
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("InvalidArgs") => Code::USAGE,
        Some("FileNotFound" | "UnknownObject") => Code::MISSING,
        Some("AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired") => Code::DENIED,
        Some(name) if is_stopped(name) || is_leaving(name) => Code::UNAVAILABLE,
        _ => Code::FAILURE,
    }
}

/// Whether the bus says that the service does not run, and that it cannot start it.
fn is_stopped(name: &str) -> bool {
    matches!(name, "ServiceUnknown" | "NameHasNoOwner" | "TimedOut") || name.starts_with("Spawn.")
}

/// Whether the bus says that the service went before it answered.
fn is_leaving(name: &str) -> bool {
    matches!(name, "NoReply" | "Disconnected" | "NoServer" | "Timeout")
}

fn no_bus(bus: Bus, error: &zbus::Error) -> String {
    let word = bus.as_str();
    let (place, cause) = match error {
        zbus::Error::Connection(cause, address) => (format!(" ({address})"), self::cause(cause)),
        error => (String::new(), error.to_string()),
    };
    let advice = match bus {
        Bus::System => "check that a D-Bus daemon runs there",
        Bus::Session => "to use the host's service, add --system",
    };
    format!("cannot connect to the {word} bus{place}: {cause}; {advice}")
}

fn no_success(bus: Bus, error: &zbus::Error) -> String {
    let word = bus.as_str();
    let Some((name, message)) = answer(error) else {
        return if is_broken(error) {
            format!("the connection to the {word} bus is lost: {error}; try again")
        } else {
            format!(
                "cannot read the reply of vmlockd: {error}; 'vmlockctl doctor' compares the versions"
            )
        };
    };
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("NameHasNoOwner" | "ServiceUnknown") => {
            let has_systemd = has_systemd(bus);
            format!("vmlockd is not running on the {word} bus; {}", start(bus, has_systemd))
        }
        Some(name) if is_stopped(name) => {
            let log = match bus {
                Bus::System => "'journalctl -u vmlockd'",
                Bus::Session => "'journalctl --user -u vmlockd'",
            };
            format!(
                "vmlockd is not running, and the {word} bus cannot start it: {message}; {log} may show \
                 the cause"
            )
        }
        Some(name) if is_leaving(name) => {
            format!("vmlockd on the {word} bus ended before it answered: {message}; try again")
        }
        _ if message.is_empty() => name,
        _ => clock::localized(&in_options(&message)),
    }
}

/// How to start the service of a bus.
fn start(bus: Bus, has_systemd: bool) -> &'static str {
    match (bus, has_systemd) {
        (Bus::System, true) => "start it with 'systemctl start vmlockd'",
        (Bus::System, false) => "start it with the host's init system, or run 'vmlockd --system'",
        (Bus::Session, true) => {
            "start it with 'systemctl --user start vmlockd', or use the host's service with --system"
        }
        (Bus::Session, false) => {
            "start it with 'vmlockd --session', or use the host's service with --system"
        }
    }
}

/// Whether systemd manages the services of a bus, as `sd_booted(3)` and systemd's user instance show.
fn has_systemd(bus: Bus) -> bool {
    match bus {
        Bus::System => Path::new("/run/systemd/system").is_dir(),
        Bus::Session => std::env::var_os("XDG_RUNTIME_DIR")
            .is_some_and(|runtime| Path::new(&runtime).join("systemd").is_dir()),
    }
}

/// What precedes the holders of a disk in a refusal of authorization.
const AUTHORIZE: [&str; 2] =
    ["have an administrator authorize you; ", "only root can use this service; "];

/// How the service advises to break locks.
const FORCE: &str = "set 'force' to break it";

/// Puts what the service says of options of the D-Bus API into this tool's own options.
fn in_options(message: &str) -> String {
    // "lock 7 belongs to …"
    let number = message.strip_prefix("lock ").and_then(|rest| rest.split(' ').next());
    let number = number.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.unwrap_or("LOCK");
    // After 'release', an owner that no process keeps alive would be left over.
    let release = if message.contains("which no process keeps alive") {
        format!("'vmlockctl unlock --force {number}' unlocks it")
    } else {
        format!("'vmlockctl release --force {number}' breaks it")
    };
    message
        .replace(FORCE, &release)
        .replace("and 'in-use' was not said", "and --in-use was not given")
}

#[cfg(test)]
mod tests;
