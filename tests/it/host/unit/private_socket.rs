//! The private socket on a host: `vmlockctl` of root needs no bus that answers.

use crate::fixture::within;
use crate::nspawn::{Host, Tree};

#[tokio::test]
async fn root_is_answered_while_the_bus_is_not() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    let disk = host.image("one.img");
    let disk = disk.to_str().unwrap();
    // The bus starts the service for the first call.
    host.run(&["vmlockctl", "lock", "--name", "web1", disk]).await.ok();
    let signal = async |signal| {
        host.run_outside_units(&["systemctl", "kill", signal, "dbus.service"]).await.ok();
    };
    signal("--signal=STOP").await;
    let listed = within("a list", host.run_outside_units(&["vmlockctl", "list"])).await;
    let released =
        within("an end", host.run_outside_units(&["vmlockctl", "release", "--force", disk])).await;
    let free = within("a list", host.run_outside_units(&["vmlockctl", "--json", "list"])).await;
    signal("--signal=CONT").await;
    assert!(listed.ok().contains("web1"));
    released.ok();
    assert_eq!(free.ok().trim(), "[]");
    // By a user's call, which takes the bus, the same is seen.
    let seen = host.run_as("games", &["vmlockctl", "--system", "--json", "list"]).await.ok();
    assert_eq!(seen.trim(), "[]");
}
