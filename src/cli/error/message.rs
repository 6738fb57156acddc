//! Messages for failures on the way to the service, and error messages of the service in terms of
//! this tool.

use std::path::Path;

use crate::cli::error::reply::{ErrorReply, has_left, is_disconnected, is_stopped};
use crate::cli::format::clock;
use crate::client::Bus;
use crate::lock::text::escape::reason;
use crate::phrases::{NO_IN_USE, NO_PROCESS, SET_FORCE};

/// Returns the message for a bus that cannot be connected to.
pub(crate) fn connect_failure(bus: Bus, error: &zbus::Error) -> String {
    let word = bus.as_str();
    let (place, cause) = match error {
        zbus::Error::Connection(error, address) => (format!(" ({address})"), reason(error)),
        error => (String::new(), error.to_string()),
    };
    let advice = match bus {
        Bus::System => "check that a D-Bus daemon runs there",
        Bus::Session => "to use the host's service, add --system",
    };
    format!("cannot connect to the {word} bus{place}: {cause}; {advice}")
}

/// Returns the message for a call that failed.
pub(crate) fn call_failure(bus: Bus, error: &zbus::Error) -> String {
    let word = bus.as_str();
    let Some(reply) = ErrorReply::of(error) else {
        return if is_disconnected(error) {
            format!("the connection to the {word} bus is lost: {error}; try again")
        } else {
            format!(
                "cannot read the reply of vmlockd: {error}; 'vmlockctl doctor' compares the versions"
            )
        };
    };
    let message = &reply.message;
    match reply.standard_name() {
        Some("NameHasNoOwner" | "ServiceUnknown") => {
            let advice = start_advice(bus, has_systemd(bus));
            format!("vmlockd is not running on the {word} bus; {advice}")
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
        Some(name) if has_left(name) => {
            format!("vmlockd on the {word} bus ended before it answered: {message}; try again")
        }
        _ if message.is_empty() => reply.name,
        _ => clock::localize_times(&with_tool_options(message)),
    }
}

/// Returns how to start the service of a bus.
pub(crate) fn start_advice(bus: Bus, has_systemd: bool) -> &'static str {
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

/// Whether systemd manages the services of a bus: for the host as `sd_booted(3)` tests it, for a
/// user by the directory of the user's instance of systemd.
fn has_systemd(bus: Bus) -> bool {
    match bus {
        Bus::System => Path::new("/run/systemd/system").is_dir(),
        Bus::Session => std::env::var_os("XDG_RUNTIME_DIR")
            .is_some_and(|runtime| Path::new(&runtime).join("systemd").is_dir()),
    }
}

/// Replaces the names of options of the D-Bus API in a message of the service by the commands and
/// options of this tool.
pub(crate) fn with_tool_options(message: &str) -> String {
    // "lock 7 belongs to …"
    let number = message.strip_prefix("lock ").and_then(|rest| rest.split(' ').next());
    let number = number.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.unwrap_or("LOCK");
    // 'release' would leave the owner, which no process keeps alive, without locks.
    let release = if message.contains(NO_PROCESS) {
        format!("'vmlockctl unlock --force {number}' unlocks it")
    } else {
        format!("'vmlockctl release --force {number}' breaks it")
    };
    message.replace(SET_FORCE, &release).replace(NO_IN_USE, "and --in-use was not given")
}
