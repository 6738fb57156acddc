//! Every method there is, with arguments that make sense.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use vmlockd::client::{MANAGER_PATH, Options};
use zbus::wire::{Array, OwnedFd, Structure, StructureBuilder};
use zbus::{Connection, Fd, Message, ObjectPath, Variant};

use crate::dbus_client::{Answer, call};
use crate::fixture::NameWatch;

pub(crate) const MANAGER: &str = "org.vmlockd1.Manager";
pub(crate) const OWNER: &str = "org.vmlockd1.Owner";
pub(crate) const LOCK: &str = "org.vmlockd1.Lock";
pub(crate) const LOG: &str = "org.freedesktop.LogControl1";

/// A method, or a property that can be set, of one object.
pub(crate) struct Method {
    pub(crate) object: String,
    pub(crate) interface: &'static str,
    pub(crate) name: &'static str,
    arguments: Vec<Variant<'static>>,
    last: Last,
}

/// The last argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Options,
    Nothing,
    /// It is a property, and the argument is its value.
    Value,
}

/// The objects of the methods.
pub(crate) struct Subject<'s> {
    pub(crate) owner: &'s ObjectPath<'s>,
    /// One of its locks.
    pub(crate) lock: &'s ObjectPath<'s>,
    /// A disk that is free.
    pub(crate) disk: &'s Path,
}

impl Method {
    /// Whether it takes options.
    pub(crate) fn has_options(&self) -> bool {
        self.last == Last::Options
    }

    /// Calls it, with these options if it takes any.
    pub(crate) async fn call(&self, bus: &Connection, options: Options<'_>) -> Answer<Message> {
        if self.last == Last::Value {
            let value = self.arguments[0].try_clone().unwrap();
            let property = Structure::from((self.interface, self.name, value));
            let set = ("org.freedesktop.DBus.Properties", "Set");
            return call(bus, &self.object, set, &property).await;
        }
        let arguments = self.arguments.iter().map(|argument| argument.try_clone().unwrap());
        let options = (self.last == Last::Options).then(|| Variant::from(options));
        let arguments =
            arguments.chain(options).fold(StructureBuilder::new(), StructureBuilder::append_field);
        let mut name = NameWatch::new(bus, "org.vmlockd1").await;
        let first = name.owned().await;
        let answer = self.call_with(bus, &arguments.build().unwrap()).await;
        // It leaves the bus for a moment, which the next call must not meet.
        if self.name == "Reexecute" && answer.is_ok() {
            name.owned_by_other_than(&first).await;
        }
        answer
    }

    /// Calls it with arguments that may be wrong.
    pub(crate) async fn call_with(
        &self,
        bus: &Connection,
        arguments: &Structure<'_>,
    ) -> Answer<Message> {
        call(bus, &self.object, (self.interface, self.name), arguments).await
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.interface, self.name)
    }
}

/// All of them. Those that end the owner or the lock come last.
pub(crate) fn all(subject: &Subject<'_>) -> Vec<Method> {
    let Subject { owner, lock, disk } = subject;
    let disk_name = disk.to_str().unwrap();
    let disks = || Variant::from(vec![(disk_name.to_owned(), "exclusive".to_owned())]);
    let file = || Variant::from(Fd::from(OwnedFd::from(std::os::fd::OwnedFd::from(open(disk)))));
    let files = || {
        let pair = StructureBuilder::new().append_field(file()).add_field("exclusive");
        let pair = pair.build().unwrap();
        let mut files = Array::new(pair.signature());
        files.append(pair.into()).unwrap();
        Variant::from(files)
    };
    let me = || Variant::from(std::process::id());
    let locks = || Variant::from(vec![(*lock).clone().into_owned()]);
    let beside = disk.with_file_name("leases").display().to_string();
    let lockspace = || Variant::from(beside.clone());
    let lease = || Variant::from(format!("lease:{beside}/web"));
    let word = |word: &'static str| Variant::from(word);
    let pidfd =
        || Variant::from(Fd::from(OwnedFd::from(crate::fixture::pidfd(std::process::id()))));
    let method = |object: &str, interface, name, arguments: Vec<Variant<'static>>, last| Method {
        object: object.to_owned(),
        interface,
        name,
        arguments,
        last,
    };
    let manager = |name, arguments| method(MANAGER_PATH, MANAGER, name, arguments, Last::Options);
    let owners = |name, arguments| method(owner, OWNER, name, arguments, Last::Options);
    let asks = |name, arguments| method(MANAGER_PATH, MANAGER, name, arguments, Last::Nothing);
    let set = |name, value| {
        method("/org/freedesktop/LogControl1", LOG, name, vec![word(value)], Last::Value)
    };
    vec![
        manager("OpenOwner", vec![word(""), word("web2")]),
        manager("RegisterOwner", vec![word(""), word("web3"), me()]),
        asks("GetOwner", vec![word("4dea22b3-1d52-d8f3-2516-782e98ab3fa0")]),
        asks("GetOwnerByPID", vec![me()]),
        manager("ListOwners", vec![]),
        manager("ListLocks", vec![]),
        manager("ListWaiting", vec![]),
        manager("FindHolders", vec![Variant::from(disk_name.to_owned())]),
        manager("FindHoldersOfFile", vec![file()]),
        manager("Resolve", vec![Variant::from(disk_name.to_owned())]),
        manager("ResolveFile", vec![file()]),
        manager("CreateLockspace", vec![lockspace()]),
        manager("CreateLease", vec![lease()]),
        manager("RemoveLease", vec![lease()]),
        manager("RemoveLockspace", vec![lockspace()]),
        manager("GetMetrics", vec![]),
        manager("Reload", vec![]),
        manager("Reexecute", vec![]),
        set("LogLevel", "debug"),
        set("LogTarget", "console"),
        owners("Acquire", vec![disks()]),
        owners("AcquireWithFiles", vec![Variant::from(Vec::<(String, String)>::new()), files()]),
        owners("NewLifeline", vec![]),
        owners("BindProcess", vec![pidfd()]),
        owners("BindPID", vec![me()]),
        owners("Cancel", vec![]),
        method(lock, LOCK, "Convert", vec![word("shared")], Last::Options),
        method(lock, LOCK, "Release", vec![], Last::Options),
        owners("Release", vec![locks()]),
        owners("Suspend", vec![]),
        owners("Resume", vec![]),
        owners("Offer", vec![]),
        owners("Adopt", vec![word("0f5b33a29d1c4f6d8a55a8f4a4d0b7c1")]),
        owners("Close", vec![]),
    ]
}

fn open(disk: &Path) -> File {
    File::options().read(true).write(true).open(disk).unwrap()
}

/// No options.
pub(crate) fn none() -> Options<'static> {
    HashMap::new()
}
