//! The service of a host, and what systemd knows of it.

use std::fs;
use std::path::PathBuf;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Host;
use crate::fixture::NameWatch;

/// The unit.
const UNIT: &str = "vmlockd.service";

/// The main process of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MainProcess {
    /// As the host numbers it.
    pub(crate) inside: u32,
    /// As this machine does.
    pub(crate) outside: u32,
}

impl MainProcess {
    /// Sends it a signal. It must not have been reaped, as its number may have been reused then.
    pub(crate) fn signal(self, signal: Signal) {
        kill(Pid::from_raw(self.outside.cast_signed()), signal)
            .unwrap_or_else(|e| panic!("{signal} to process {}: {e}", self.outside));
    }
}

impl Host {
    /// Starts the service, and has it started at every boot, as packages do.
    pub(crate) async fn enable(&self) -> MainProcess {
        // Ready means that it owns its name.
        self.systemctl(&["enable", "--quiet", "--now", UNIT]).await;
        self.main().await
    }

    /// The service's process.
    pub(crate) async fn main(&self) -> MainProcess {
        self.main_of(UNIT).await
    }

    /// The main processes that the service has at this moment, if it has any: without the processes
    /// that these start, such as workers of the inspector.
    pub(crate) fn living(&self) -> Vec<MainProcess> {
        let found = self.container.processes(&format!("system.slice/{UNIT}"));
        let all: Vec<u32> = found.iter().map(|(outside, _)| *outside).collect();
        let is_helper = |outside: u32| {
            // Its arguments say so once it is executed, and its parent does before.
            let arguments = fs::read(format!("/proc/{outside}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
            let stat = fs::read_to_string(format!("/proc/{outside}/stat")).unwrap_or_default();
            let parent =
                stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            let is_services =
                |argument: &[u8]| argument == b"--system" || argument.starts_with(b"--inspector-");
            arguments.any(|argument| argument.starts_with(b"--") && !is_services(argument))
                || parent.is_some_and(|parent| all.contains(&parent))
        };
        let mains = found.into_iter().filter(|(outside, _)| !is_helper(*outside));
        mains.map(|(outside, inside)| MainProcess { inside, outside }).collect()
    }

    /// The inspectors that there are: those of systemd's, each in a unit of its own.
    pub(crate) fn inspectors(&self) -> Vec<MainProcess> {
        let slice = "system.slice/system-vmlockd\\x2dinspector.slice";
        let units = self.container.units(slice);
        let found = units.iter().flat_map(|unit| self.container.processes(unit));
        found.map(|(outside, inside)| MainProcess { inside, outside }).collect()
    }

    /// The main process of a unit that runs.
    pub(super) async fn main_of(&self, unit: &str) -> MainProcess {
        let number = self.systemctl(&["show", "--property=MainPID", "--value", unit]).await;
        let inside = number.trim().parse().unwrap_or_else(|e| panic!("MainPID {number}: {e}"));
        // systemd's 0 is not a process, but a signal to it would reach this process group.
        assert_ne!(inside, 0, "{unit} does not run");
        let found = self.container.processes(&format!("system.slice/{unit}"));
        let found = found.into_iter().find(|(_, number)| *number == inside);
        let (outside, _) = found.unwrap_or_else(|| panic!("process {inside} is not {unit}'s"));
        MainProcess { inside, outside }
    }

    /// Waits until a process other than `before` is the service.
    pub(crate) async fn successor(
        &self,
        watch: &mut NameWatch,
        before: MainProcess,
    ) -> MainProcess {
        watch.not_owned_by(before.inside).await;
        watch.owned().await;
        self.main().await
    }

    /// The control group of a unit, as a directory of this machine.
    pub(crate) fn control_group(&self, unit: &str) -> PathBuf {
        self.container.control_group(unit)
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
