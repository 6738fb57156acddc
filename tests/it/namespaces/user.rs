//! `vmlockctl` in a user namespace, where it sees other uids than the bus does.

use crate::house::user::{GAMES, NOBODY, ROOT};
use crate::house::{Broker, House, Ran, polkit, program, run};
use crate::machine::{Machine, exclusive};

/// As root inside, and as a user that the namespace does not map.
const HOW: [&str; 2] = ["-Ur", "-U"];

/// Runs `vmlockctl` as this user, in a new user namespace.
async fn inside(house: &House, uid: u32, how: &str, words: &[&str]) -> Ran {
    let mut command = house.command_as(uid, "unshare");
    command.arg(how).arg(program("vmlockctl")).args(words);
    run(command).await
}

async fn system_bus(broker: Broker) {
    let house = House::builder().broker(broker);
    let house = house.polkit(polkit::Choice::Real { rules: String::new() }).start().await;
    let disk = house.raw_of(GAMES, "a.img");
    let bus = house.connection_as(GAMES).await;
    let web1 = Machine::open(&bus, "web1").await;
    for how in HOW {
        let listed = inside(&house, GAMES, how, &["--json", "--system", "owners"]).await.ok();
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!((&listed[0]["name"], &listed[0]["uid"]), (&"web1".into(), &GAMES.into()));
        // A caller that is not root on the bus shows a descriptor, whatever it is inside.
        let path = disk.to_str().unwrap();
        let shared = format!("{path}:shared");
        for disk in [path, &shared] {
            let words = ["--system", "run", "--disk", disk, "--", "true"];
            inside(&house, GAMES, how, &words).await.ok();
        }
        // Root has an owner of that name, too; the caller's own comes first.
        let other = Machine::open(&house.connection().await, "backup").await;
        let lock = ["--system", "lock", "--name", "backup", path];
        inside(&house, GAMES, how, &lock).await.ok();
        inside(&house, GAMES, how, &["--system", "unlock", "backup"]).await.ok();
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
    let house = House::builder().session_of(NOBODY).start().await;
    let web1 = Machine::open(&house.connection().await, "web1").await;
    for how in HOW {
        let listed = inside(&house, NOBODY, how, &["--session", "owners"]).await.ok();
        assert!(listed.contains("web1"), "{listed}");
    }
    drop(web1);
}

#[tokio::test]
async fn a_bus_that_is_closed_to_a_user_says_so_there_too() {
    let house = House::builder().session_of(NOBODY).start().await;
    for how in HOW {
        let ran = inside(&house, GAMES, how, &["--session", "owners"]).await;
        assert_eq!(ran.status.code(), Some(69), "{ran:?}");
        assert!(ran.stderr.contains("cannot connect to the session bus"), "{ran:?}");
    }
    // The disk of a user who is root outside is asked for by name.
    let house = House::builder().start().await;
    let disk = house.raw_of(ROOT, "a.img");
    let web1 = Machine::open(&house.connection().await, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    for how in HOW {
        let said = inside(&house, ROOT, how, &["--system", "who", disk.to_str().unwrap()]).await;
        assert!(said.ok().contains("VM \"web1\""), "{how}");
    }
}
