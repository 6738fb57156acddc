//! A machine with a connection of its own.

use std::fmt::Write as _;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::fixture::rpc::{Answer, Arguments, Frame, Owner, arguments, procedure};
use crate::fixture::{Fixture, Tool, gone, mortal, pidfd, within};
use crate::nspawn::Host;

const PROGRAM: &str = include_str!("guest.pl");

/// The process that becomes QEMU in libvirt: it registers itself, and keeps running.
pub(super) struct Guest {
    tool: Tool,
    /// Its number in its own process namespace.
    pub(super) pid: u32,
    serial: u32,
}

impl Guest {
    /// One beside the service of a fixture.
    pub(super) async fn beside(fixture: &Fixture) -> Guest {
        let mut command = Command::from(mortal(None, "perl"));
        command.args(["-e", PROGRAM]).arg(fixture.dir().join("virtlockd-sock"));
        Guest::new(Tool::new(command, &fixture.dir().join("guests.log"))).await
    }

    /// One in a host.
    pub(super) async fn inside(host: &Host, socket: &Path) -> Guest {
        host.write("/srv/guest.pl", PROGRAM);
        let socket = socket.to_str().unwrap();
        Guest::new(host.spawn(&["perl", "/srv/guest.pl", socket])).await
    }

    async fn new(mut tool: Tool) -> Guest {
        let pid = tool.line().await.parse().unwrap();
        Guest { tool, pid, serial: 0 }
    }

    /// It, as an owner.
    pub(super) fn owner(&self, name: &str, number: u8) -> Owner {
        Owner::new(name, number, self.pid)
    }

    /// Registers itself and gives away the right to do anything else, as a machine does in libvirt.
    pub(super) async fn come_up(&mut self, name: &str, number: u8) -> Owner {
        let owner = self.owner(name, number);
        self.register(&owner).await.granted();
        self.call(procedure::RESTRICT, arguments::restrict(0)).await.granted();
        owner
    }

    pub(super) async fn register(&mut self, owner: &Owner) -> Answer {
        self.call(procedure::REGISTER, arguments::register(owner, 0)).await
    }

    pub(super) async fn acquire(&mut self, disk: &str, flags: u32) -> Answer {
        self.call(procedure::ACQUIRE, arguments::resource("", disk, flags)).await
    }

    pub(super) async fn release(&mut self, disk: &str) -> Answer {
        self.call(procedure::RELEASE, arguments::resource("", disk, 0)).await
    }

    pub(super) async fn call(&mut self, procedure: i32, arguments: Arguments) -> Answer {
        self.serial += 1;
        let call = Frame::call(procedure, self.serial, arguments);
        self.send(&call.bytes()).await;
        Answer::to(&call, self.receive().await)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        assert_eq!(self.run(&format!("send {}", hex(bytes))).await, "sent");
    }

    /// The next message; none if the connection has ended.
    pub(super) async fn receive(&mut self) -> Option<Frame> {
        let said = self.run("receive").await;
        (said != "closed").then(|| Frame::parse(&unhex(&said)))
    }

    /// Closes its connection, and lives.
    pub(super) async fn close(&mut self) {
        assert_eq!(self.run("close").await, "closed");
    }

    /// Starts a child that inherits its connection, and returns the number of the child.
    pub(super) async fn bear(&mut self) -> u32 {
        self.run("bear").await.parse().unwrap()
    }

    /// Kills it without reaping it: its number is not reused.
    pub(super) async fn is_killed(&self) {
        end(self.pid).await;
    }

    async fn run(&mut self, line: &str) -> String {
        self.tool.write_line(line);
        self.tool.line().await
    }
}

/// Kills a process of this machine, and waits until it has ended.
pub(super) async fn end(pid: u32) {
    let ended = pidfd(pid);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    within("the end of a process", gone(ended)).await;
}

/// Bytes as digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
