//! Leases: keys in directories that somebody has made for them.

mod callers;
mod fronts;
mod held;
mod made;
mod names;
mod recorded;

use std::path::{Path, PathBuf};

use vmlockd::client::ManagerProxy;
use zbus::Connection;

use crate::house::House;
use crate::machine::{Refused, manager};
use crate::methods::none;

/// A house with a lockspace, and root's connection to its bus.
struct Scene {
    house: House,
    bus: Connection,
    manager: ManagerProxy<'static>,
    /// The lockspace's directory.
    directory: PathBuf,
}

impl Scene {
    async fn set() -> Scene {
        Scene::within(House::builder().start().await).await
    }

    /// The same in a house that is there.
    async fn within(house: House) -> Scene {
        let bus = house.connection().await;
        let (manager, directory) = (manager(&bus).await, house.dir().join("leases"));
        manager.create_lockspace(text(&directory), none()).await.unwrap();
        Scene { house, bus, manager, directory }
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

/// What somebody was told who did not get what he wanted.
fn refused<T: std::fmt::Debug>(answer: zbus::Result<T>) -> Refused {
    answer.unwrap_err().into()
}
