//! A caller in another mount namespace, as in a container or in a unit with `BindPaths=`.

use std::fs;

use zbus::OwnedObjectPath;

use super::assert_foreign;
use super::scenario::{Scenario, is_free};
use crate::dbus_client::{TestVm, exclusive, manager, option};
use crate::fixture::Fixture;
use crate::fixture::user::NOBODY;
use crate::fixture::{Connector, polkit};
use crate::methods::none;

const OTHER: &str = "leads to another file in the mount namespace of vmlockd";

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_name_that_leads_to_another_file_is_refused_and_nothing_is_locked() {
    let scenario = Scenario::new().await;
    let (_process, bus) = scenario.bus(&scenario.swapped()).await;
    let (disk, other) = (scenario.disk(), scenario.other());
    let inner = TestVm::open(&bus, "inner").await;
    for mode in ["exclusive", "shared"] {
        let refused = inner.acquire(&[(text(&disk), mode)]).await.unwrap_err();
        assert_foreign(&refused, OTHER);
        assert!(refused.message.ends_with("pass an open descriptor instead of the name"));
    }
    // With others that are proven: all of it or nothing.
    let both = [exclusive(&other), exclusive(&disk)];
    assert_foreign(&inner.acquire(&both).await.unwrap_err(), OTHER);
    assert!(is_free(&disk) && is_free(&other));
    let resources = vec![(text(&disk).to_owned(), "exclusive".to_owned())];
    let opened = TestVm::open_with(&bus, "", "late", option("resources", resources)).await;
    assert_foreign(&opened.unwrap_err(), OTHER);
    let manager = manager(&bus).await;
    assert_eq!(manager.n_owners().await.unwrap(), 1);
    // A name that leads to one file for both is as good as ever.
    inner.acquire(&[exclusive(&other)]).await.unwrap();
    assert!(is_free(&disk) && !is_free(&other));
}

#[tokio::test]
async fn a_name_that_leads_to_nothing_for_one_of_both_is_refused() {
    let scenario = Scenario::new().await;
    let (_process, bus) = scenario.bus(&scenario.hidden()).await;
    let inner = TestVm::open(&bus, "inner").await;
    let refused = inner.acquire(&[exclusive(&scenario.disk())]).await.unwrap_err();
    assert_foreign(&refused, "cannot be looked up in the mount namespace of the caller");
    assert!(refused.message.contains("No such file or directory"), "{refused:?}");
    let missing = scenario.path("pool/none.img");
    let refused = inner.acquire(&[exclusive(&missing)]).await.unwrap_err();
    assert_foreign(&refused, "does not exist in the mount namespace of vmlockd");
    assert!(is_free(&scenario.disk()));
    // For a caller on the host that is another error.
    let outer = TestVm::open(&scenario.fixture.connection().await, "outer").await;
    let refused = outer.acquire(&[exclusive(&missing)]).await.unwrap_err();
    assert_eq!(refused.name, "DBus.Error.FileNotFound");
}

#[tokio::test]
async fn queries_by_such_a_name_are_refused() {
    let scenario = Scenario::new().await;
    let (disk, other) = (scenario.disk(), scenario.other());
    let outer = TestVm::open(&scenario.fixture.connection().await, "outer").await;
    outer.acquire(&[exclusive(&disk)]).await.unwrap();
    let (_process, bus) = scenario.bus(&scenario.swapped()).await;
    let manager = manager(&bus).await;
    let resolved = manager.resolve(text(&disk), none()).await;
    assert_foreign(&resolved.unwrap_err().into(), OTHER);
    // Not the owner that holds the file of that name on the host.
    let found = manager.find_holders(text(&disk), none()).await;
    assert_foreign(&found.unwrap_err().into(), OTHER);
    assert!(manager.find_holders(text(&other), none()).await.unwrap().is_empty());
    manager.resolve(text(&other), none()).await.unwrap();
    // By descriptor, what the caller sees is asked about.
    let file = fs::File::open(&other).unwrap();
    let resolved = manager.resolve_file((&file).into(), none()).await.unwrap();
    assert_eq!(String::try_from(resolved["path"].clone()).unwrap(), text(&other));
}

#[tokio::test]
async fn unauthorized_callers_learn_nothing_of_another_file() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Real { rules: String::new() });
    let scenario = Scenario::of(fixture.start().await, NOBODY);
    let disk = scenario.disk();
    let outer = TestVm::open(&scenario.fixture.connection().await, "outer").await;
    outer.acquire(&[exclusive(&disk)]).await.unwrap();
    let (_process, bus) = scenario.bus(&scenario.swapped()).await;
    let found = manager(&bus).await.find_holders(text(&disk), none()).await;
    assert_foreign(&found.unwrap_err().into(), "only for callers that may lock by name");
    let bus = scenario.fixture.connection_as(NOBODY).await;
    let found = manager(&bus).await.find_holders(text(&disk), none()).await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn lockspaces_and_leases_are_those_of_the_caller() {
    let scenario = Scenario::new().await;
    let (_process, bus) = scenario.bus(&scenario.swapped()).await;
    let (inner, outer) = (manager(&bus).await, manager(&scenario.fixture.connection().await).await);
    let (pool, other) = (scenario.path("pool"), scenario.path("other"));
    fs::remove_file(scenario.disk()).unwrap();
    fs::remove_file(scenario.other()).unwrap();
    let foreign = |answer: zbus::Result<()>| assert_foreign(&answer.unwrap_err().into(), "mount");
    let made = |answer: zbus::Result<OwnedObjectPath>| answer.map(drop);
    foreign(made(inner.create_lockspace(text(&pool), none()).await));
    foreign(made(inner.create_lockspace(text(&pool.join("new")), none()).await));
    assert!(!pool.join("new").exists() && !other.join("new").exists());
    inner.create_lockspace(text(&other), none()).await.unwrap();
    outer.create_lockspace(text(&pool), none()).await.unwrap();
    let (theirs, ours) = (format!("lease:{}/a", text(&pool)), format!("lease:{}/a", text(&other)));
    foreign(inner.create_lease(&theirs, none()).await);
    assert!(!pool.join("a").exists() && !other.join("a").exists());
    outer.create_lease(&theirs, none()).await.unwrap();
    inner.create_lease(&ours, none()).await.unwrap();
    let machine = TestVm::open(&bus, "inner").await;
    assert_foreign(&machine.acquire(&[(&theirs, "exclusive")]).await.unwrap_err(), OTHER);
    assert!(is_free(&pool.join("a")));
    foreign(inner.find_holders(&theirs, none()).await.map(drop));
    foreign(inner.resolve(&theirs, none()).await.map(drop));
    foreign(inner.remove_lease(&theirs, none()).await);
    foreign(inner.remove_lockspace(text(&pool), none()).await);
    machine.acquire(&[(&ours, "exclusive")]).await.unwrap();
    assert!(!is_free(&other.join("a")));
    drop(machine);
}

#[tokio::test]
async fn a_process_that_has_ended_names_nothing() {
    let scenario = Scenario::new().await;
    let (process, bus): (Connector, _) = scenario.bus(&["env".to_owned()]).await;
    let machine = TestVm::open(&bus, "web1").await;
    process.end().await;
    let refused = machine.acquire(&[exclusive(&scenario.disk())]).await.unwrap_err();
    assert_foreign(&refused, "cannot be compared");
    assert!(is_free(&scenario.disk()));
}

#[tokio::test]
async fn vmlockctl_shows_files_from_another_mount_namespace() {
    let scenario = Scenario::new().await;
    let (disk, other) = (scenario.disk(), scenario.other());
    let swapped = scenario.swapped();
    let outer = TestVm::open(&scenario.fixture.connection().await, "outer").await;
    let held = outer.acquire(&[exclusive(&other)]).await.unwrap();
    let run = ["--system", "run", "--disk", text(&disk), "--", "echo", "STARTED"];
    let refused = scenario.vmlockctl(&swapped, &run).await;
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
    assert!(refused.stderr.contains("VM \"outer\"") && !refused.stdout.contains("STARTED"));
    let said = scenario.vmlockctl(&swapped, &["--system", "who", text(&disk)]).await.ok();
    assert!(said.contains("VM \"outer\""), "{said}");
    outer.release(&held).await.unwrap();
    for wait in ["--wait=1min", "--wait=0"] {
        let run = ["--system", "run", wait, "--disk", text(&disk), "--", "echo", "STARTED"];
        let said = scenario.vmlockctl(&swapped, &run).await.ok();
        assert!(said.contains("STARTED"), "{said}");
    }
    let lock = ["--system", "lock", "--name", "inner", text(&disk)];
    scenario.vmlockctl(&swapped, &lock).await.ok();
    assert!(is_free(&disk) && !is_free(&other));
    let said = scenario.vmlockctl(&swapped, &["--system", "resolve", text(&disk)]).await.ok();
    assert!(said.contains("inode:") && !said.contains(text(&disk)), "{said}");
    // On the host it is found by its own name.
    let said = scenario.fixture.run("vmlockctl", &["--system", "who", text(&other)]).await.ok();
    assert!(said.contains("VM \"inner\""), "{said}");
    scenario.vmlockctl(&swapped, &["--system", "unlock", text(&disk)]).await.ok();
    assert!(is_free(&other));
    let lockspace = scenario.path("pool/leases");
    let create = ["--system", "lockspace", "create", text(&lockspace)];
    let refused = scenario.vmlockctl(&swapped, &create).await.refused();
    assert!(refused.contains("call from the mount namespace"), "{refused}");
}

#[tokio::test]
async fn a_namespace_in_which_the_name_leads_to_the_same_file_is_no_obstacle() {
    let scenario = Scenario::new().await;
    let (_process, bus) = scenario.bus(&scenario.beside()).await;
    let disk = scenario.disk();
    let link = scenario.path("link.img");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let inner = TestVm::open(&bus, "inner").await;
    let locks = inner.acquire(&[exclusive(&link)]).await.unwrap();
    assert!(!is_free(&disk));
    inner.release(&locks).await.unwrap();
    let said =
        scenario.vmlockctl(&scenario.beside(), &["--system", "lock", text(&disk)]).await.ok();
    assert!(said.contains(text(&disk)), "{said}");
}
