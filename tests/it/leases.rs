//! Leases: keys in directories that are created for them.

mod callers;
mod conflicts;
mod frontends;
mod lifecycle;
mod names;
mod record_only;

use std::path::{Path, PathBuf};

use vmlockd::client::ManagerProxy;
use zbus::Connection;

use crate::dbus_client::{Refused, manager};
use crate::fixture::Fixture;
use crate::methods::none;

/// A fixture with a lockspace, and root's connection to its bus.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    manager: ManagerProxy<'static>,
    /// The lockspace's directory.
    directory: PathBuf,
}

impl Scenario {
    async fn set_up() -> Scenario {
        Scenario::within(Fixture::builder().start().await).await
    }

    /// Creates the scenario in an existing fixture.
    async fn within(fixture: Fixture) -> Scenario {
        let bus = fixture.connection().await;
        let (manager, directory) = (manager(&bus).await, fixture.dir().join("leases"));
        manager.create_lockspace(text(&directory), none()).await.unwrap();
        Scenario { fixture, bus, manager, directory }
    }

    /// The name of a lease in the lockspace.
    fn name(&self, key: &str) -> String {
        format!("lease:{}/{key}", self.directory.display())
    }

    /// The file of a lease.
    fn file(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// A lease, made.
    async fn lease(&self, key: &str) -> String {
        let name = self.name(key);
        self.manager.create_lease(&name, none()).await.unwrap();
        name
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns the error of a refused request.
fn refused<T: std::fmt::Debug>(answer: zbus::Result<T>) -> Refused {
    answer.unwrap_err().into()
}
