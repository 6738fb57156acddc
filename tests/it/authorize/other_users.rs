//! Another's machines and locks, and the service's own settings.

use super::{INTERACTIVE, read_write, with_polkit};
use crate::dbus_client::{TestVm, exclusive, lock, manager, option};
use crate::fixture::user::{DAEMON, NOBODY, ROOT};
use crate::fixture::{Fixture, ForeignHolder, LockType};
use crate::methods::{self, LOCK, LOG, Method, OWNER, Subject, none};
use crate::refused_requests::{Untouched, assert_refused};

/// Returns the polkit action for a method on an owner of another user.
fn action(method: &Method) -> &'static str {
    match (method.interface, method.name) {
        (OWNER, "Release" | "Suspend" | "Offer" | "Close") | (LOCK, "Release") => {
            "org.vmlockd1.release-foreign"
        }
        (OWNER | LOCK, _) => "org.vmlockd1.manage-foreign",
        _ => panic!("{method} commands no owner"),
    }
}

/// The methods that command an owner, or a lock of it.
fn commands(subject: &Subject<'_>) -> Vec<Method> {
    let of_owner = |method: &Method| [OWNER, LOCK].contains(&method.interface);
    methods::all(subject).into_iter().filter(of_owner).collect()
}

#[tokio::test]
async fn resources_of_another_user_need_authorization() {
    let fixture = with_polkit("").await;
    let bus = fixture.connection_as(NOBODY).await;
    // A disk that the caller could lock, so that only the owner prevents it.
    let free = fixture.raw_of(NOBODY, "free");
    for uid in [ROOT, DAEMON] {
        let theirs = fixture.connection_as(uid).await;
        let disk = fixture.raw_of(uid, &format!("held-by-{uid}"));
        let machine = TestVm::open(&theirs, "web1").await;
        let locks = machine.acquire_files(&[(&read_write(&disk), "exclusive")]).await.unwrap();
        let subject = Subject { owner: &machine.path(), lock: &locks[0], disk: &free };
        let before = Untouched::so_far(&fixture).await;
        for method in commands(&subject) {
            let words = format!("{} needs interactive authorization", action(&method));
            let refused = method.call(&bus, none()).await.unwrap_err();
            assert_refused(&refused, INTERACTIVE, &words);
            if action(&method).ends_with("release-foreign") {
                let refused = method.call(&bus, option("force", true)).await.unwrap_err();
                assert_refused(&refused, INTERACTIVE, &words);
            }
            before.still(method.name).await;
        }
        ForeignHolder::try_once(&disk, LockType::Ofd, false).unwrap_err();
        assert_eq!(lock(&bus, &locks[0]).await.mode().await.unwrap(), "exclusive");
        assert_eq!(machine.owner.anchors().await.unwrap(), ["lifeline"]);
        before.and_it_goes_on().await;
    }
}

#[tokio::test]
async fn an_owner_without_locks_belongs_to_its_user_too() {
    let fixture = with_polkit("").await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let machine = TestVm::open(&root, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let owner = crate::dbus_client::owner(&user, machine.path()).await;
    for options in [none(), option("force", true)] {
        let refused = owner.close(options).await.unwrap_err().into();
        assert_refused(&refused, INTERACTIVE, "org.vmlockd1.manage-foreign needs");
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn settings_need_authorization() {
    let fixture = Fixture::builder()
        .folder("locks")
        .polkit(crate::fixture::polkit::Choice::Real { rules: String::new() });
    let fixture = fixture.start().await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let disk = fixture.raw_of(ROOT, "disk");
    let machine = TestVm::open(&root, "web1").await;
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let subject = Subject { owner: &machine.path(), lock: &locks[0], disk: &disk };
    fixture.configure("log_level = \"debug\"\nfile_lockspace_dir = \"@DIR@/locks\"");
    let before = Untouched::so_far(&fixture).await;
    let methods = methods::all(&subject);
    let settings = methods
        .iter()
        .filter(|method| method.interface == LOG || ["Reload", "Reexecute"].contains(&method.name));
    let mut count = 0;
    for method in settings {
        let refused = method.call(&user, none()).await.unwrap_err();
        assert_refused(&refused, INTERACTIVE, "org.vmlockd1.reload needs");
        count += 1;
    }
    assert_eq!(count, 4);
    let path = "/org/freedesktop/LogControl1";
    let log = zbus::Proxy::new(&user, "org.vmlockd1", path, LOG).await.unwrap();
    assert_eq!(log.get_property::<String>("LogLevel").await.unwrap(), "info");
    let lockspace = |row: &vmlockd::client::Row| format!("{:?}", row["lockspace"]);
    let resolved = manager(&root).await.resolve(disk.to_str().unwrap(), none()).await.unwrap();
    assert!(lockspace(&resolved).contains("/direct"), "{resolved:?}");
    before.and_it_goes_on().await;
}
