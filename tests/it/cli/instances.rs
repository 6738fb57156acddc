//! Two instances of the service on one host: each knows of the other's locks from the kernel only.

use std::fs;
use std::os::unix::fs::chown;
use std::sync::Arc;

use crate::cli::str;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::{Account, NOBODY, ROOT};
use crate::fixture::{Bus, CommandOutput, Daemon, Fixture, Launch, run};

/// A user's own instance, beside that of a fixture.
struct Own {
    bus: Arc<Bus>,
    _daemon: Daemon,
}

impl Own {
    async fn start(fixture: &Fixture) -> Own {
        let dir = fixture.dir().join("own");
        let bus = Bus::session(&dir.join("bus"), NOBODY).await;
        let launch = Launch { session_of: Some(NOBODY), ..Launch::below(&dir) };
        let Account { uid, gid } = Account::of(NOBODY);
        fs::write(&launch.config, "").unwrap();
        fs::create_dir(&launch.runtime_dir).unwrap();
        chown(&launch.runtime_dir, Some(uid), Some(gid)).unwrap();
        let daemon = Daemon::start(&bus, launch).await;
        Own { bus, _daemon: daemon }
    }

    /// Runs `vmlockctl` where both buses can be reached.
    async fn vmlockctl(&self, fixture: &Fixture, uid: u32, words: &[&str]) -> CommandOutput {
        let mut command = fixture.command_as(uid, "vmlockctl");
        command.env("DBUS_SESSION_BUS_ADDRESS", self.bus.address()).args(words);
        run(command).await
    }
}

#[tokio::test]
async fn the_who_command_calls_the_hosts_instance_for_a_user() {
    let fixture = Fixture::builder().start().await;
    let own = Own::start(&fixture).await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let who = ["--session", "who", str(&disk)];
    let ran = own.vmlockctl(&fixture, NOBODY, &who).await;
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(3), ""), "{ran:?}");

    let web1 = TestVm::open(&fixture.connection().await, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let said = own.vmlockctl(&fixture, NOBODY, &who).await.ok();
    let lines: Vec<&str> = said.lines().collect();
    let [line] = &*lines else { panic!("one holder: {said}") };
    assert!(line.contains("exclusively by VM \"web1\""), "{line}");
    assert!(line.ends_with("(by vmlockd on the system bus)"), "{line}");
    let json = ["--json", "--session", "who", str(&disk)];
    let said = own.vmlockctl(&fixture, NOBODY, &json).await.ok();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0]["holders"][0]["bus"], "system", "{said}");
}

#[tokio::test]
async fn the_who_command_calls_the_users_instance_or_names_the_hosts() {
    let fixture = Fixture::builder().start().await;
    let own = Own::start(&fixture).await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let lock = ["--session", "lock", "--name", "mine", str(&disk)];
    own.vmlockctl(&fixture, NOBODY, &lock).await.ok();
    let who = ["--system", "who", str(&disk)];
    let said = own.vmlockctl(&fixture, ROOT, &who).await.ok();
    assert!(said.contains("VM \"mine\"") && said.contains("on the session bus"), "{said}");

    // Where the session bus can't be reached.
    let ran = fixture.run("vmlockctl", &who).await;
    assert!(ran.stdout.contains("another program (vmlockd, pid "), "{ran:?}");
    assert!(ran.stderr.contains("the vmlockd of user nobody holds"), "{ran:?}");
}
