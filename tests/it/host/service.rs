//! The service of a host, and what systemd knows of it.

use super::Host;
use crate::house::NameWatch;

/// The unit.
const UNIT: &str = "vmlockd.service";

/// The service's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Main {
    /// As the host numbers it.
    pub(crate) inside: u32,
    /// As this machine does.
    pub(crate) outside: u32,
}

impl Host {
    /// Starts the service, and has it started at every boot, as packages do.
    pub(crate) async fn enable(&self) -> Main {
        // Ready means that it owns its name.
        self.systemctl(&["enable", "--quiet", "--now", UNIT]).await;
        self.main().await
    }

    /// The process of a service that runs.
    pub(crate) async fn main(&self) -> Main {
        let number = self.property("MainPID").await;
        let inside: u32 = number.parse().unwrap_or_else(|e| panic!("MainPID {number}: {e}"));
        // What systemd calls 0 is no process, but a signal to it would reach this one's group.
        assert_ne!(inside, 0, "the service does not run");
        let found = self.container.processes("system.slice/vmlockd.service");
        let found = found.into_iter().find(|(_, number)| *number == inside);
        let (outside, _) = found.unwrap_or_else(|| panic!("process {inside} is not the service's"));
        Main { inside, outside }
    }

    /// Waits until a process other than `before` is the service.
    pub(crate) async fn successor(&self, watch: &mut NameWatch, before: Main) -> Main {
        watch.not_owned_by(before.inside).await;
        watch.owned().await;
        self.main().await
    }

    /// A property of the unit.
    pub(crate) async fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--property", name, "--value", UNIT]).await.trim().to_owned()
    }

    /// Adds to the unit, and has systemd read it.
    pub(crate) async fn drop_in(&self, name: &str, text: &str) {
        self.write(format!("/etc/systemd/system/{UNIT}.d/{name}.conf"), text);
        self.systemctl(&["daemon-reload"]).await;
    }

    /// Writes the service's configuration file; the service has to be told.
    pub(crate) fn configure(&self, toml: &str) {
        self.write("/etc/vmlockd/vmlockd.toml", toml);
    }

    pub(super) async fn version(&self) -> u32 {
        let said = self.systemctl(&["--version"]).await;
        let number = said.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("version: {said}"))
    }
}
