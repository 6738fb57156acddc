//! The rooms of the program, which are the folders and files of `src`, and what each may use.

use super::checks::Table;

/// The floors: each room, and the rooms that it may use beside itself.
pub(super) const FLOORS: &Table = &[
    ("lock", &["phrases", "sync"]),
    ("life", &["lock", "registration"]),
    ("inspector", &["lock", "sync"]),
    // `failpoint` marks the places where tests crash the service.
    ("failpoint", &[]),
    // It asks an inspector which descriptors the service manager has stored.
    ("keep", &["lock", "inspector", "failpoint", "sync"]),
    // The kinds of messages in the log, for the rooms that report them and for the one that writes
    // them.
    ("catalog", &[]),
    ("service", &["lock", "life", "keep", "inspector", "failpoint", "catalog", "phrases", "sync"]),
    ("privacy", &["lock", "service", "paths", "sync"]),
    ("admission", &["lock", "service", "bus", "privacy", "registration", "sync"]),
    ("auth", &["lock", "life", "service", "catalog", "admission", "privacy", "phrases", "sync"]),
    // `logging` is beside the floors; the D-Bus object for the log sets its level.
    (
        "dbus",
        &[
            "lock",
            "life",
            "keep",
            "inspector",
            "service",
            "admission",
            "auth",
            "privacy",
            "bus",
            "logging",
            "nearest",
            "paths",
            "sync",
        ],
    ),
    ("virtlockd", &["lock", "life", "service", "keep", "failpoint", "catalog", "sync"]),
    ("logging", &["lock", "catalog", "sync"]),
    ("notify", &[]),
    ("nearest", &[]),
    ("registration", &[]),
    // A mutex that outlives panics, and a counter with a guard.
    ("sync", &[]),
    ("instance", &["lock"]),
    ("config", &["lock", "service", "logging", "nearest"]),
    ("reexec", &["lock", "keep", "service"]),
    (
        "daemon",
        &[
            "lock",
            "life",
            "keep",
            "service",
            "dbus",
            "virtlockd",
            "bus",
            "config",
            "inspector",
            "instance",
            "logging",
            "notify",
            "reexec",
            "failpoint",
        ],
    ),
    // The names of objects are the same on both ends of the bus.
    ("paths", &["lock"]),
    ("bus", &[]),
    ("rlimit", &[]),
    ("client", &["bus"]),
    // Texts that the service writes and the tool recognizes.
    ("phrases", &[]),
    ("cli", &["client", "lock", "paths", "phrases", "rlimit"]),
];

/// Crates that a room must not use.
pub(super) const FOREIGN_CRATES: &Table = &[
    ("lock", &["zbus", "tokio", "tracing", "sd_notify", "toml", "clap"]),
    ("inspector", &["zbus", "tokio", "sd_notify", "toml", "clap"]),
    ("life", &["zbus", "tracing", "sd_notify", "toml", "clap"]),
    ("keep", &["zbus", "tokio", "tracing", "toml", "clap"]),
    ("service", &["zbus", "sd_notify", "toml", "clap"]),
    ("cli", &["zbus_polkit"]),
];

/// The sub-rooms of each room that has some, from the ground up: each uses itself and those before
/// it. The room's own file comes last.
pub(super) const SUB_ROOMS: &Table = &[
    ("keep", &["error", "stash", "state_file"]),
    ("admission", &["message", "transport", "quota", "control", "incoming", "outgoing", "private"]),
    (
        "inspector",
        &[
            "identity",
            "progress",
            "skip_list",
            "requester",
            "error",
            "protocol",
            "channel",
            "client",
            "worker",
        ],
    ),
    (
        "cli",
        &[
            "format",
            "error",
            "terminal",
            "connection",
            "process",
            "target",
            "acquire",
            "list",
            "doctor",
            "commands",
            "completion",
            "metrics",
            "monitor",
            "run",
            "arguments",
        ],
    ),
    (
        "dbus",
        &[
            "error",
            "reply",
            "context",
            "request",
            "query",
            "interface",
            "publish",
            "private_socket",
            "server",
        ],
    ),
    (
        "lock",
        &[
            "request",
            "text",
            "model",
            "table",
            "mount",
            "path",
            "descriptor",
            "sysfs",
            "disk",
            "lockspace",
            "holder_record",
            "ofd",
            "foreign",
            "resolve",
            "acquire",
            "presence",
            "selftest",
        ],
    ),
    (
        "service",
        &[
            "core",
            "report",
            "io",
            "persist",
            "process",
            "state",
            "holder",
            "verify",
            "lockspace",
            "components",
            "wait",
            "lock",
            "owner",
            "recover",
            "facade",
        ],
    ),
];

/// Files and folders that decide or decode, which only compute.
pub(super) const PURE: &[&str] = &[
    "admission/message/byte_order.rs",
    "admission/message/error_reply.rs",
    "admission/message/framer.rs",
    "admission/message/header.rs",
    "admission/message/mod.rs",
    "admission/message/sender.rs",
    "admission/private/handshake.rs",
    "lock/model/",
    "lock/table/",
    "lock/text/",
    "keep/stash/key.rs",
    "keep/stash/policy.rs",
    "virtlockd/call.rs",
    "virtlockd/frame.rs",
    "virtlockd/remote_error.rs",
    "virtlockd/xdr.rs",
];

/// Files in these folders that are still to move to another one. Nothing is ever added to this list.
pub(super) const IMPURE_FILES_TO_MOVE: &[&str] = &["lock/model/host.rs", "lock/model/process.rs"];

/// Imports of files that are not pure by files that are: the importing file, and the imported one.
/// Nothing is ever added to this list.
pub(super) const IMPURE_IMPORTS_TO_CUT: &[(&str, &str)] = &[
    ("lock/model/lock.rs", "lock/request.rs"),
    ("lock/model/process_search.rs", "lock/model/process.rs"),
    ("lock/model/refusal.rs", "lock/model/process.rs"),
];

/// Types whose methods are in one place, so that no room adds operations to them: the service's
/// facade only delegates, and the struct of its components only holds them together.
pub(super) const METHODS: &[(&str, &str)] =
    &[("Service", "service/facade/"), ("Components", "service/components.rs")];

/// The files with unsafe code, one block each.
pub(super) const UNSAFE: &[&str] = &[
    "admission/outgoing/stall_detector.rs",
    "cli/terminal/signals.rs",
    "keep/stash/inherited.rs",
    "keep/stash/pair.rs",
    "keep/state_file/mapping.rs",
    "keep/state_file/mapping/unmap.rs",
    "lock/foreign/file_tables.rs",
    "lock/disk/loop_device.rs",
    "registration.rs",
];

/// The files that receive signals from the bus.
pub(super) const SIGNAL_STREAMS: &[&str] = &["auth/caller.rs", "client/subscription.rs"];
