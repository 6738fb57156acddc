//! The instance of a user, which looks at processes of that user without any privilege.

use super::assert_foreign;
use super::scenario::{Scenario, is_free};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::Fixture;
use crate::fixture::user::NOBODY;

async fn scenario() -> Scenario {
    Scenario::of(Fixture::builder().session_of(NOBODY).start().await, NOBODY)
}

#[tokio::test]
async fn a_name_from_the_users_own_namespaces_is_proven_or_refused() {
    let scenario = scenario().await;
    let (disk, other) = (scenario.disk(), scenario.other());
    let (_process, bus) = scenario.bus(&scenario.swapped()).await;
    let inner = TestVm::open(&bus, "inner").await;
    let refused = inner.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_foreign(&refused, "leads to another file");
    assert!(is_free(&disk) && is_free(&other));
    inner.acquire(&[exclusive(&other)]).await.unwrap();
    assert!(is_free(&disk) && !is_free(&other));
}

#[tokio::test]
async fn a_process_that_may_not_be_looked_at_names_nothing() {
    let scenario = scenario().await;
    // The thread that connects is the user's, and its process is root's.
    let bus = crate::fixture::connect(scenario.path("bus/socket"), NOBODY).await.unwrap();
    let machine = TestVm::open(&bus, "web1").await;
    let refused = machine.acquire(&[exclusive(&scenario.disk())]).await.unwrap_err();
    assert_foreign(&refused, "cannot examine the process");
    assert!(is_free(&scenario.disk()));
    let file = std::fs::File::options().read(true).write(true).open(scenario.disk()).unwrap();
    machine.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    assert!(!is_free(&scenario.disk()));
}

#[tokio::test]
async fn vmlockctl_shows_files_there_too() {
    let scenario = scenario().await;
    let (disk, other) = (scenario.disk(), scenario.other());
    let path = disk.to_str().unwrap();
    let swapped = scenario.swapped();
    let words = ["--session", "lock", "--name", "inner", path];
    scenario.vmlockctl(&swapped, &words).await.ok();
    assert!(is_free(&disk) && !is_free(&other));
    let words = ["--session", "run", "--disk", path, "--", "true"];
    let refused = scenario.vmlockctl(&swapped, &words).await;
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
    scenario.vmlockctl(&swapped, &["--session", "unlock", "inner"]).await.ok();
    scenario.vmlockctl(&swapped, &words).await.ok();
    // Where nothing is mounted over it, the name is the service's.
    scenario.vmlockctl(&scenario.beside(), &words).await.ok();
}
