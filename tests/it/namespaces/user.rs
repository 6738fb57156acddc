//! `vmlockctl` in a user namespace, where it sees other uids than the bus does.

use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::{GAMES, NOBODY, ROOT};
use crate::fixture::{Broker, CommandOutput, Fixture, polkit, program, run};

/// As root inside, and as a user that the namespace does not map.
const HOW: [&str; 2] = ["-Ur", "-U"];

/// Runs `vmlockctl` as this user, in a new user namespace.
async fn inside(fixture: &Fixture, uid: u32, how: &str, words: &[&str]) -> CommandOutput {
    let mut command = fixture.command_as(uid, "unshare");
    command.arg(how).arg(program("vmlockctl")).args(words);
    run(command).await
}

async fn system_bus(broker: Broker) {
    let fixture = Fixture::builder().broker(broker);
    let fixture = fixture.polkit(polkit::Choice::Real { rules: String::new() }).start().await;
    let disk = fixture.raw_of(GAMES, "a.img");
    let bus = fixture.connection_as(GAMES).await;
    let web1 = TestVm::open(&bus, "web1").await;
    for how in HOW {
        let listed = inside(&fixture, GAMES, how, &["--json", "--system", "owners"]).await.ok();
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!((&listed[0]["name"], &listed[0]["uid"]), (&"web1".into(), &GAMES.into()));
        // A caller that is not root on the bus shows a descriptor, whatever it is inside.
        let path = disk.to_str().unwrap();
        let shared = format!("{path}:shared");
        for disk in [path, &shared] {
            let words = ["--system", "run", "--disk", disk, "--", "true"];
            inside(&fixture, GAMES, how, &words).await.ok();
        }
        // Root has an owner of that name, too; the caller's own comes first.
        let other = TestVm::open(&fixture.connection().await, "backup").await;
        let lock = ["--system", "lock", "--name", "backup", path];
        inside(&fixture, GAMES, how, &lock).await.ok();
        inside(&fixture, GAMES, how, &["--system", "unlock", "backup"]).await.ok();
        drop(other);
    }
    drop(web1);
}

#[tokio::test]
async fn vmlockctl_gets_through_dbus_daemon() {
    system_bus(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn vmlockctl_gets_through_dbus_broker() {
    system_bus(Broker::DbusBroker).await;
}

#[tokio::test]
async fn vmlockctl_gets_through_to_the_session_bus() {
    let fixture = Fixture::builder().session_of(NOBODY).start().await;
    let web1 = TestVm::open(&fixture.connection().await, "web1").await;
    for how in HOW {
        let listed = inside(&fixture, NOBODY, how, &["--session", "owners"]).await.ok();
        assert!(listed.contains("web1"), "{listed}");
    }
    drop(web1);
}

#[tokio::test]
async fn a_bus_that_is_closed_to_a_user_says_so_there_too() {
    let fixture = Fixture::builder().session_of(NOBODY).start().await;
    for how in HOW {
        let ran = inside(&fixture, GAMES, how, &["--session", "owners"]).await;
        assert_eq!(ran.status.code(), Some(69), "{ran:?}");
        assert!(ran.stderr.contains("cannot connect to the session bus"), "{ran:?}");
    }
    // The disk of a user who is root outside is asked for by name.
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(ROOT, "a.img");
    let web1 = TestVm::open(&fixture.connection().await, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    for how in HOW {
        let said = inside(&fixture, ROOT, how, &["--system", "who", disk.to_str().unwrap()]).await;
        assert!(said.ok().contains("VM \"web1\""), "{how}");
    }
}
