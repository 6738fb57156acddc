//! Tests of messages and exit codes.

use super::*;
use crate::cli::error::message::{start_advice, with_tool_options};
use zbus::fdo;

fn error_reply(name: &str) -> zbus::Error {
    let call = zbus::Message::method_call("/", "M").build(&()).unwrap();
    let reply = zbus::Message::error(&call.header(), name).build(&"why").unwrap();
    reply.into()
}

#[test]
fn error_names_have_exit_codes() {
    for (name, code) in [
        ("org.vmlockd1.Error.LockHeld", 75),
        ("org.vmlockd1.Error.LockHeldElsewhere", 75),
        ("org.vmlockd1.Error.NoSuchOwner", 66),
        ("org.vmlockd1.Error.NoSuchLock", 66),
        ("org.vmlockd1.Error.NotLockable", 1),
        ("org.vmlockd1.Error.ShuttingDown", 69),
        ("org.freedesktop.DBus.Error.FileNotFound", 66),
        ("org.freedesktop.DBus.Error.UnknownObject", 66),
        ("org.freedesktop.DBus.Error.AccessDenied", 77),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", 77),
        ("org.freedesktop.DBus.Error.InvalidArgs", 64),
        ("org.freedesktop.DBus.Error.ServiceUnknown", 69),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", 69),
        ("org.freedesktop.DBus.Error.NoReply", 69),
        ("org.freedesktop.DBus.Error.LimitsExceeded", 1),
        ("com.example.Error", 1),
    ] {
        assert_eq!(Error::from(error_reply(name)).exit(), Exit::Status(code), "{name}");
    }
    assert_eq!(Error::Interrupted(2).exit(), Exit::Signal(2));
}

#[test]
fn the_message_of_the_service_is_printed() {
    let error = Error::from(error_reply("org.vmlockd1.Error.LockHeld"));
    assert_eq!(error.message(Bus::System).unwrap(), "why");
    let twice = Error::from(fdo::Error::ZBus(error_reply("org.vmlockd1.Error.LockHeld")));
    assert_eq!((twice.exit(), twice.message(Bus::System).unwrap()), (Exit::LOCKED, "why".into()));
    let forged = Error::Failed("a\nvmlockctl: b\u{1b}[2J".into());
    assert_eq!(forged.message(Bus::System).unwrap(), "a\\nvmlockctl: b\\u{1b}[2J");
}

#[test]
fn option_names_of_the_api_are_replaced_by_those_of_the_tool() {
    let why = "lock 7 belongs to VM \"web1\" of uid 0, which is alive; set 'force' to break it";
    assert_eq!(
        with_tool_options(why),
        "lock 7 belongs to VM \"web1\" of uid 0, which is alive; \
         'vmlockctl release --force 7' breaks it"
    );
    let why = "lock 7 belongs to VM \"a\" of uid 5, which no process keeps alive; set 'force' to \
               break it";
    assert!(with_tool_options(why).ends_with("'vmlockctl unlock --force 7' unlocks it"));
    let why = "disk /dev/sda: this host uses it (mounted), and 'in-use' was not said";
    assert!(with_tool_options(why).ends_with("(mounted), and --in-use was not given"));
}

#[test]
fn a_stopped_service_is_reported_with_how_to_start_it() {
    let error = Error::from(fdo::Error::ServiceUnknown("no such name".into()));
    let text = error.message(Bus::Session).unwrap();
    assert!(text.contains("session bus") && text.contains("use the host's service"), "{text}");
    for bus in [Bus::System, Bus::Session] {
        assert!(
            start_advice(bus, true).contains("systemctl")
                && !start_advice(bus, false).contains("systemctl")
        );
    }
    let error = Error::from(error_reply("org.freedesktop.DBus.Error.Spawn.ChildExited"));
    let text = error.message(Bus::System).unwrap();
    assert!(text.contains("cannot start it: why; 'journalctl -u vmlockd'"), "{text}");
    assert!(error.is_unavailable());
    let io = io::Error::from_raw_os_error(2);
    let text = Error::Connect(zbus::Error::InputOutput(io.into())).message(Bus::System).unwrap();
    assert!(text.contains("system bus") && text.contains("No such file"), "{text}");
}

#[test]
fn advice_does_not_change_the_exit_code() {
    for (name, code) in [
        ("org.freedesktop.DBus.Error.UnknownMethod", Exit::FAILURE),
        ("org.freedesktop.DBus.Error.NoReply", Exit::UNAVAILABLE),
    ] {
        let error = Error::from(error_reply(name));
        assert_eq!(error.is_unknown_method(), code == Exit::FAILURE);
        let advised = error.with_advice(Bus::System, "do this");
        assert_eq!(advised.exit(), code, "{name}");
        assert!(advised.message(Bus::System).unwrap().ends_with("; do this"), "{name}");
    }
}

#[test]
fn missing_objects_are_recognized() {
    assert!(Error::from(fdo::Error::UnknownObject(String::new())).is_no_such_object());
    assert!(Error::from(fdo::Error::UnknownInterface(String::new())).is_no_such_object());
    assert!(!Error::from(fdo::Error::Failed(String::new())).is_no_such_object());
}
