//! A user's own instance serves this user alone, without restrictions.

use super::{DENIED, read_write};
use crate::dbus_client::{TestVm, exclusive, lock, manager};
use crate::fixture::Fixture;
use crate::fixture::user::{NOBODY, ROOT};
use crate::methods::{self, Subject, none};
use crate::refused_requests::{Untouched, assert_free, assert_refused};

#[tokio::test]
async fn a_user_may_do_everything_in_the_own_instance() {
    let fixture = Fixture::builder().session_of(NOBODY).start().await;
    let bus = fixture.connection_as(NOBODY).await;
    // In a directory of the user, which may create others there.
    let (disk, free) = (fixture.raw_of(NOBODY, "disk"), fixture.raw_of(NOBODY, "run/free"));
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let subject = Subject { owner: &machine.path(), lock: &locks[0], disk: &free };
    for method in methods::all(&subject) {
        if let Err(refused) = method.call(&bus, none()).await {
            let not_there =
                ["NoSuchOwner", "NoSuchLock", "NoSuchOffer", "DBus.Error.UnknownObject"];
            assert!(not_there.contains(&refused.name.as_str()), "{method}: {refused:?}");
        }
    }
    assert_free(&disk);
}

#[tokio::test]
async fn only_its_user_may_use_an_instance_not_even_root() {
    let fixture = Fixture::builder().session_of(NOBODY).start().await;
    let (own, root) = (fixture.connection_as(NOBODY).await, fixture.connection_as(ROOT).await);
    let (disk, free) = (fixture.raw_of(NOBODY, "disk"), fixture.raw_of(NOBODY, "free"));
    let machine = TestVm::open(&own, "web1").await;
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let subject = Subject { owner: &machine.path(), lock: &locks[0], disk: &free };
    let before = Untouched::so_far(&fixture).await;
    for method in methods::all(&subject) {
        let row = vmlockd::auth::methods::find(method.interface, method.name).unwrap();
        let answer = method.call(&root, none()).await;
        if row.actions.is_empty() || ["FindHolders", "GetMetrics"].contains(&row.member) {
            let refused = answer.err().map(|refused| refused.name);
            assert!(refused.is_none_or(|name| name == "NoSuchOwner"), "{method}");
        } else {
            let refused = answer.map(drop).expect_err(method.name);
            assert_refused(&refused, DENIED, "this instance serves another user");
        }
        before.still(method.name).await;
    }
    // The user may see what is open to all.
    let rows = manager(&root).await.list_locks(none()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(lock(&root, &locks[0]).await.mode().await.unwrap(), "exclusive");
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_users_own_instance_has_no_quota() {
    let limits = "[limits]\nowners_per_user = 1\nlocks_per_user = 1";
    let fixture = Fixture::builder().session_of(NOBODY).config(limits).start().await;
    let bus = fixture.connection_as(NOBODY).await;
    let machines = [TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await];
    for (n, machine) in machines.iter().enumerate() {
        let files =
            ["a", "b"].map(|name| read_write(&fixture.raw_of(NOBODY, &format!("{name}{n}"))));
        let disk_request = [(&files[0] as _, "exclusive"), (&files[1] as _, "exclusive")];
        machine.acquire_files(&disk_request).await.unwrap();
    }
}
