//! A D-Bus client for tests: opens owners, and acquires and releases locks.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use vmlockd::client::{LockProxy, ManagerProxy, Options, OwnerProxy};
use zbus::wire::Structure;
use zbus::{Connection, Fd, Message, OwnedObjectPath, Variant};

/// An error as it came over the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The D-Bus name without what our own have in common: `LockHeld`, `DBus.Error.InvalidArgs`.
    pub(crate) name: String,
    /// The sentence.
    pub(crate) message: String,
}

impl From<zbus::Error> for Refused {
    fn from(error: zbus::Error) -> Self {
        let (name, message) = match error {
            zbus::Error::MethodError(name, message, _) => {
                (name.to_string(), message.unwrap_or_default())
            }
            zbus::Error::FDO(error) => {
                use zbus::DBusError as _;
                (error.name().to_string(), error.description().unwrap_or_default().to_owned())
            }
            error => panic!("no answer at all: {error}"),
        };
        let ours = name.strip_prefix("org.vmlockd1.Error.");
        let short = ours.or_else(|| name.strip_prefix("org.freedesktop.")).unwrap_or(&name);
        Self { name: short.to_owned(), message }
    }
}

pub(crate) type Answer<T> = Result<T, Refused>;

/// A virtual machine, as its manager sees it.
#[derive(Debug)]
pub(crate) struct TestVm {
    pub(crate) owner: OwnerProxy<'static>,
    /// The lifeline that keeps the owner alive.
    pub(crate) lifeline: OwnedFd,
}

pub(crate) async fn manager(connection: &Connection) -> ManagerProxy<'static> {
    ManagerProxy::new(connection).await.unwrap()
}

pub(crate) async fn owner(connection: &Connection, path: OwnedObjectPath) -> OwnerProxy<'static> {
    OwnerProxy::new(connection, path).await.unwrap()
}

pub(crate) async fn lock(connection: &Connection, path: &OwnedObjectPath) -> LockProxy<'static> {
    LockProxy::new(connection, path.clone()).await.unwrap()
}

/// Calls a method by its name, with arguments that a proxy would not let pass.
pub(crate) async fn call(
    connection: &Connection,
    object: &str,
    (interface, method): (&str, &str),
    arguments: &Structure<'_>,
) -> Answer<Message> {
    let service = Some(vmlockd::client::SERVICE);
    Ok(connection.call_method(service, object, Some(interface), method, arguments).await?)
}

/// A disk and how it shall be locked.
pub(crate) fn exclusive(path: &Path) -> (&str, &'static str) {
    (path.to_str().unwrap(), "exclusive")
}

/// Returns the arguments for a shared lock on `path`.
pub(crate) fn shared(path: &Path) -> (&str, &'static str) {
    (path.to_str().unwrap(), "shared")
}

impl TestVm {
    /// Opens an owner that lives as long as the machine is kept.
    pub(crate) async fn open(connection: &Connection, name: &str) -> Self {
        Self::open_with(connection, "", name, HashMap::new()).await.unwrap()
    }

    pub(crate) async fn open_with(
        connection: &Connection,
        uuid: &str,
        name: &str,
        options: Options<'_>,
    ) -> Answer<Self> {
        let (path, lifeline) = manager(connection).await.open_owner(uuid, name, options).await?;
        Ok(Self { owner: owner(connection, path).await, lifeline: lifeline.into() })
    }

    pub(crate) fn path(&self) -> OwnedObjectPath {
        self.owner.inner().path().to_owned().into()
    }

    pub(crate) async fn acquire(&self, disks: &[(&str, &str)]) -> Answer<Vec<OwnedObjectPath>> {
        Ok(self.owner.acquire(disks, HashMap::new()).await?)
    }

    pub(crate) async fn acquire_files(
        &self,
        files: &[(&dyn AsFdDyn, &str)],
    ) -> Answer<Vec<OwnedObjectPath>> {
        let files: Vec<(Fd<'_>, &str)> =
            files.iter().map(|(file, mode)| (Fd::from(file.fd()), *mode)).collect();
        Ok(self.owner.acquire_with_files(&[], &files, HashMap::new()).await?)
    }

    pub(crate) async fn release(&self, locks: &[OwnedObjectPath]) -> Answer<()> {
        Ok(self.owner.release(locks, HashMap::new()).await?)
    }

    /// The locks it has, by what the table says.
    pub(crate) async fn locks(&self) -> Vec<OwnedObjectPath> {
        self.owner.locks().await.unwrap()
    }
}

/// `AsFd` that can stand in one list for files of several types.
pub(crate) trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// One option.
pub(crate) fn option<'v>(key: &'static str, value: impl Into<Variant<'v>>) -> Options<'v> {
    HashMap::from([(key, value.into())])
}
