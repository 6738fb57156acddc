//! Two instances of the service on one host: each knows of the other's locks from the kernel only.

use std::fs;
use std::os::unix::fs::chown;
use std::sync::Arc;

use crate::cli::str;
use crate::house::user::{Account, NOBODY, ROOT};
use crate::house::{Bus, Daemon, House, Launch, Ran, run};
use crate::machine::{Machine, exclusive};

/// A user's own instance, beside that of a house.
struct Own {
    bus: Arc<Bus>,
    _daemon: Daemon,
}

impl Own {
    async fn start(house: &House) -> Own {
        let dir = house.dir().join("own");
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
    async fn vmlockctl(&self, house: &House, uid: u32, words: &[&str]) -> Ran {
        let mut command = house.command_as(uid, "vmlockctl");
        command.env("DBUS_SESSION_BUS_ADDRESS", self.bus.address()).args(words);
        run(command).await
    }
}

#[tokio::test]
async fn who_asks_the_hosts_instance_for_a_user() {
    let house = House::builder().start().await;
    let own = Own::start(&house).await;
    let disk = house.raw_of(NOBODY, "disk");
    let who = ["--session", "who", str(&disk)];
    let ran = own.vmlockctl(&house, NOBODY, &who).await;
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(3), ""), "{ran:?}");

    let web1 = Machine::open(&house.connection().await, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let said = own.vmlockctl(&house, NOBODY, &who).await.ok();
    let lines: Vec<&str> = said.lines().collect();
    let [line] = &*lines else { panic!("one holder: {said}") };
    assert!(line.contains("exclusively by VM \"web1\""), "{line}");
    assert!(line.ends_with("(by vmlockd on the system bus)"), "{line}");
    let json = ["--json", "--session", "who", str(&disk)];
    let said = own.vmlockctl(&house, NOBODY, &json).await.ok();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0]["holders"][0]["bus"], "system", "{said}");
}

#[tokio::test]
async fn who_asks_the_users_instance_or_says_that_it_may_know_more() {
    let house = House::builder().start().await;
    let own = Own::start(&house).await;
    let disk = house.raw_of(NOBODY, "disk");
    let lock = ["--session", "lock", "--name", "mine", str(&disk)];
    own.vmlockctl(&house, NOBODY, &lock).await.ok();
    let who = ["--system", "who", str(&disk)];
    let said = own.vmlockctl(&house, ROOT, &who).await.ok();
    assert!(said.contains("VM \"mine\"") && said.contains("on the session bus"), "{said}");

    // Where the session bus can't be reached.
    let ran = house.run("vmlockctl", &who).await;
    assert!(ran.stdout.contains("another program (vmlockd, pid "), "{ran:?}");
    assert!(ran.stderr.contains("the vmlockd of user nobody holds"), "{ran:?}");
}
