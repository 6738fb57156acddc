//! `vmlockctl`, where owners are hidden from other users.

use super::scenario::{FIRST, PRIVATE, SECOND, Scenario};
use crate::dbus_client::{TestVm, manager};
use crate::fixture::{Broker, NameWatch, Tool};
use crate::methods::none;

/// Starts `vmlockctl monitor` as a user; it gets signals when this returns.
async fn monitor(scenario: &Scenario, uid: u32) -> Tool {
    let mut command = scenario.fixture.command_as(uid, "sh");
    let program = crate::fixture::program("vmlockctl");
    command.args([
        "-c",
        "exec \"$@\" 2>&1",
        "sh",
        program.to_str().unwrap(),
        "--system",
        "monitor",
    ]);
    let mut tool = Tool::new(command, &scenario.fixture.dir().join(format!("monitor-{uid}.log")));
    assert!(tool.line().await.contains("listening"));
    tool
}

#[tokio::test]
async fn monitor_shows_a_user_its_own_vms_also_after_a_restart() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    let (mut first, mut second) =
        (monitor(&scenario, FIRST).await, monitor(&scenario, SECOND).await);
    scenario.another().await;
    let said = first.line().await;
    assert!(said.contains("opened") && said.contains("topsecret-2"), "{said}");
    let bus = scenario.fixture.connection_as(SECOND).await;
    let web2 = TestVm::open(&bus, "web2").await;
    let said = second.line().await;
    assert!(said.contains("web2"), "{said}");

    let root = scenario.fixture.connection().await;
    let mut name = NameWatch::new(&root, "org.vmlockd1").await;
    let before = name.owned().await;
    manager(&root).await.reexecute(none()).await.unwrap();
    name.owned_by_other_than(&before).await;
    assert!(second.line().await.contains("is not running"));
    assert!(second.line().await.contains("is running on the system bus again"));
    // It calls the service that has come, and gets signals from then on.
    drop(web2);
    let next = tokio::spawn(async move { second.line().await });
    while !next.is_finished() {
        // The number of owners that a user may open in some seconds is limited.
        if let Ok(web5) = TestVm::open_with(&bus, "", "web5", none()).await {
            web5.owner.close(none()).await.unwrap();
        }
    }
    assert!(next.await.unwrap().contains("VM"));
}

#[tokio::test]
async fn the_who_command_reports_that_another_user_holds_the_disk() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    let disk = scenario.shared.to_str().unwrap();
    let said = scenario.fixture.run_as(SECOND, "vmlockctl", &["--system", "who", disk]).await;
    assert!(said.stdout.contains(&format!("disk {disk} is locked exclusively by another user\n")));
    let said = scenario.fixture.run_as(SECOND, "vmlockctl", &["--system", "list"]).await;
    assert!(!said.stdout.contains("topsecret"), "{said:?}");
    let said = scenario.fixture.run_as(FIRST, "vmlockctl", &["--system", "list"]).await.ok();
    assert!(said.contains("topsecret"), "{said}");
}
