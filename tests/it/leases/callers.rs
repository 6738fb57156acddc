//! Access to leases, and their creation.

use std::os::unix::fs::symlink;

use super::{Scenario, refused, text};
use crate::dbus_client::{TestVm, lock, manager, option};
use crate::fixture::user::NOBODY;
use crate::fixture::{Fixture, polkit};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const INTERACTIVE: &str = "DBus.Error.InteractiveAuthorizationRequired";
const BY_NAME: &str = "org.vmlockd1.acquire-by-name";
const MANAGE: &str = "org.vmlockd1.manage-lockspaces";

/// A rule that lets every user have the leases of the scenario's lockspace shared, and make lockspaces
/// and leases below one directory.
const RULES: &str = r#"
    polkit.addRule(function (action, subject) {
        var name = action.lookup("resource");
        if (action.id == "org.vmlockd1.acquire-by-name" && action.lookup("mode") != "exclusive" &&
                name.indexOf("lease:@DIR@/leases/") === 0)
            return polkit.Result.YES;
        if (action.id == "org.vmlockd1.manage-lockspaces" &&
                (name.indexOf("@DIR@/site/") === 0 || name.indexOf("lease:@DIR@/site/") === 0))
            return polkit.Result.YES;
    });"#;

async fn scenario(rules: &str) -> Scenario {
    let choice = polkit::Choice::Real { rules: rules.to_owned() };
    Scenario::within(Fixture::builder().folder("site").polkit(choice).start().await).await
}

#[tokio::test]
async fn naming_a_lease_needs_authorization() {
    let scenario = scenario("").await;
    let (name, user) = (scenario.lease("web").await, scenario.fixture.connection_as(NOBODY).await);
    let (manager, web1) = (manager(&user).await, TestVm::open(&user, "web1").await);
    let before = Untouched::so_far(&scenario.fixture).await;
    // The user does not learn whether such a lease or lockspace exists.
    for name in [name.clone(), scenario.name("none"), "lease:/none/such".to_owned()] {
        let resources = option("resources", vec![(name.as_str(), "shared")]);
        for refused in [
            web1.acquire(&[(&name, "shared")]).await.unwrap_err(),
            TestVm::open_with(&user, "", "web2", resources).await.unwrap_err(),
            refused(manager.resolve(&name, none()).await),
        ] {
            assert_refused(&refused, INTERACTIVE, BY_NAME);
        }
        for refused in [
            refused(manager.create_lease(&name, none()).await),
            refused(manager.remove_lease(&name, none()).await),
        ] {
            assert_refused(&refused, INTERACTIVE, MANAGE);
        }
        assert_eq!(manager.find_holders(&name, none()).await.unwrap(), []);
    }
    for path in [text(&scenario.directory), "/none/such"] {
        for refused in [
            refused(manager.create_lockspace(path, none()).await.map(drop)),
            refused(manager.remove_lockspace(path, none()).await),
        ] {
            assert_refused(&refused, INTERACTIVE, MANAGE);
        }
    }
    before.still("all of it").await;
    // The user may know that it is held, as with any lock.
    let roots = TestVm::open(&scenario.bus, "roots").await;
    roots.acquire(&[(&name, "exclusive")]).await.unwrap();
    assert_eq!(manager.find_holders(&name, none()).await.unwrap().len(), 1);
    roots.owner.close(none()).await.unwrap();
    assert_free(&scenario.file("web"));
}

#[tokio::test]
async fn a_rule_goes_by_the_name_and_the_mode() {
    let scenario = scenario(RULES).await;
    let (name, user) = (scenario.lease("web").await, scenario.fixture.connection_as(NOBODY).await);
    let web1 = TestVm::open(&user, "web1").await;
    let refused_alone = web1.acquire(&[(&name, "exclusive")]).await.unwrap_err();
    assert_refused(&refused_alone, INTERACTIVE, BY_NAME);
    let locks = web1.acquire(&[(&name, "shared")]).await.unwrap();
    // A user with read access gets no exclusive lock, not even after a suspension.
    let its = lock(&user, &locks[0]).await;
    assert_refused(&refused(its.convert("exclusive", none()).await), INTERACTIVE, BY_NAME);
    web1.owner.suspend(none()).await.unwrap();
    let locks = web1.owner.resume(none()).await.unwrap();
    let its = lock(&user, &locks[0]).await;
    assert_refused(&refused(its.convert("exclusive", none()).await), INTERACTIVE, BY_NAME);
    let unknown = web1.acquire(&[(&scenario.name("none"), "shared")]).await.unwrap_err();
    assert_refused(&unknown, "DBus.Error.FileNotFound", "does not exist");
    // Root may do anything with leases of other users, and finds them by name.
    let root = lock(&scenario.bus, &locks[0]).await;
    assert_eq!(root.resource().await.unwrap(), name);
}

#[tokio::test]
async fn a_rule_for_one_directory_allows_no_other() {
    let scenario = scenario(RULES).await;
    let (user, dir) = (scenario.fixture.connection_as(NOBODY).await, scenario.fixture.dir());
    let manager = manager(&user).await;
    let site = dir.join("site");
    symlink("../outside", site.join("link")).unwrap();
    std::fs::create_dir(dir.join("outside")).unwrap();
    for name in ["link", "link/below"] {
        let refused = refused(manager.create_lockspace(text(&site.join(name)), none()).await);
        assert_refused(&refused, "NotLockable", "leads through a symbolic link");
    }
    let climbing = format!("{}/../outside", site.display());
    let climbed = refused(manager.create_lockspace(&climbing, none()).await);
    assert_refused(&climbed, "DBus.Error.InvalidArgs", "has '..' in it");
    assert_eq!(std::fs::read_dir(dir.join("outside")).unwrap().count(), 0);

    let (own, lease) = (site.join("own"), format!("lease:{}/own/web", site.display()));
    manager.create_lockspace(text(&own), none()).await.unwrap();
    manager.create_lease(&lease, none()).await.unwrap();
    assert!(own.join("web").exists());
    let foreign = refused(manager.create_lease(&scenario.name("web"), none()).await);
    assert_refused(&foreign, INTERACTIVE, MANAGE);
    manager.remove_lease(&lease, none()).await.unwrap();
    manager.remove_lockspace(text(&own), none()).await.unwrap();
    assert!(!own.exists());
    // The user may name a link of root.
    scenario.manager.create_lockspace(text(&site.join("link")), none()).await.unwrap();
}
