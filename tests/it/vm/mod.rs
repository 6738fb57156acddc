//! Virtual machines: the installed programs under a kernel of their own, with disks and a network
//! as the test requires.
//!
//! They boot the [`Tree`], in which `make install` has installed the program as a package would, on
//! an emulated processor: so they run everywhere, and everything in them takes ten times as long.
//! Whatever a [`crate::nspawn`] can do is tested there. `make test-vm` runs these tests; `make
//! test` does not, hence `#[ignore]`.
//!
//! A virtual machine is controlled through [`Qmp`] and an agent that runs programs in it. All calls
//! block the calling thread until the event: while one machine boots, other started machines do,
//! too. On hosts without virtual machines, a test prints the reason and succeeds, as in
//! [`crate::nspawn`].

#![allow(dead_code, reason = "machines offer more than the tests of the day use")]

mod base64;
mod builder;
mod disk_image;
mod disks;
mod network;
mod nfs;
mod programs;
mod qmp;
mod service;

use std::{fs, path::PathBuf, thread, time::Duration};

use serde_json::{Value, json};

use crate::fixture::Process;

pub(crate) use builder::VmBuilder;
pub(crate) use disk_image::Tree;
pub(crate) use network::Network;
pub(crate) use programs::Running;
use qmp::Qmp;

/// Long enough for the slowest step on a busy machine: reaching it is a failure, never a wait.
const PATIENCE: Duration = Duration::from_secs(300);

/// A machine that is switched on. It is gone without a trace when it is dropped.
pub(crate) struct Vm {
    name: String,
    number: Option<u32>,
    agent: Qmp,
    control: Qmp,
    process: Process,
    console: PathBuf,
}

impl Vm {
    /// Waits until it has booted and is on its wire; the service is installed and neither enabled
    /// nor running.
    pub(crate) fn booted(&self) {
        let open = |device: &Value| device["label"] == "agent" && device["frontend-open"] == true;
        while !self.control.ask("query-chardev", &json!({})).as_array().unwrap().iter().any(open) {
            self.control.hear("VSERPORT_CHANGE");
        }
        let state = self.run(&["systemctl", "is-system-running", "--wait"]);
        assert_eq!(state.stdout, "running\n", "{}", self.run(&["systemctl", "--failed"]).stdout);
        // It does not wait for drivers.
        self.run(&["udevadm", "settle"]).ok();
        if let Some(number) = self.number {
            let address = format!("{}/24", Network::address(number));
            self.run(&["ip", "address", "add", &address, "dev", "eth0"]).ok();
            self.run(&["ip", "link", "set", "eth0", "up"]).ok();
        }
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Cuts its wire, or mends it.
    pub(crate) fn link(&self, up: bool) {
        self.control.ask("set_link", &json!({ "name": "nic", "up": up }));
    }

    /// Stops its processors, as without power, with its memory preserved.
    pub(crate) fn freeze(&self) {
        self.control.ask("stop", &json!({}));
    }

    /// Takes its power away and gives it back, whatever it was doing; it boots then.
    pub(crate) fn reset(&self) {
        // A kernel panic ends the machine, but this reset must not.
        self.control.ask("set-action", &json!({ "reboot": "reset" }));
        self.control.ask("system_reset", &json!({}));
        self.control.hear("RESET");
        self.control.ask("cont", &json!({}));
    }

    /// Takes its power away for good.
    pub(crate) fn power_off(self) {
        drop(self);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let from = console.lines().count().saturating_sub(40);
        let last: Vec<_> = console.lines().skip(from).collect();
        eprintln!("---- the console of {}:\n{}\n----", self.name, last.join("\n"));
        eprintln!("---- the service on {}:\n{}----", self.name, self.log_tail());
    }
}
