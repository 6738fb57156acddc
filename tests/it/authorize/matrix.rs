//! The authorization table against the kinds of caller: each method, called by each kind.

use vmlockd::auth::methods::{METHODS, MethodRule};

use super::{DENIED, INTERACTIVE};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::{NOBODY, ROOT};
use crate::fixture::{Answer, Fixture, polkit};
use crate::methods::{self, Method, Subject, none};

/// Asks polkit in some cases only: whether more is told, or whether what is hidden may be seen.
fn only_tells_less(row: &MethodRule) -> bool {
    ["FindHolders", "GetMetrics"].contains(&row.member)
}

/// Calls the method of a row, of a machine of root's with one lock, as this user.
async fn outcome(fixture: &Fixture, row: &MethodRule, uid: u32) -> Result<(), String> {
    let root = fixture.connection().await;
    let name = format!("{}-{uid}", row.member);
    let (held, free) = (fixture.raw_of(ROOT, &format!("held-{name}")), fixture.raw_of(uid, &name));
    let machine = TestVm::open(&root, "web1").await;
    let locks = machine.acquire(&[exclusive(&held)]).await.unwrap();
    let methods = methods::all(&Subject { owner: &machine.path(), lock: &locks[0], disk: &free });
    let case = |method: &&Method| (method.interface, method.name) == (row.interface, row.member);
    let method = methods.iter().find(case);
    let method = method.unwrap_or_else(|| panic!("{row:?} is called by no test"));
    let bus = fixture.connection_as(uid).await;
    let answer = method.call(&bus, none()).await;
    let lives = machine.owner.locks().await.is_ok_and(|now| now == locks);
    for file in [held, free] {
        std::fs::remove_file(file).unwrap();
    }
    match answer {
        Err(refused) if [DENIED, INTERACTIVE].contains(&refused.name.as_str()) => {
            assert!(lives, "{row:?} did something and was refused");
            Err(format!("{}: {}", refused.name, refused.message))
        }
        // Refused for another reason, as an owner that is not found; that is for other tests.
        _ => Ok(()),
    }
}

#[tokio::test]
async fn every_method_is_authorized_as_the_table_says() {
    let no = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    no.polkit().mock().answer(Answer::Deny);
    let none = Fixture::builder().start().await;
    for (fixture, why) in
        [(&no, "polkit refused"), (&none, "polkit is not running or not installed")]
    {
        for row in METHODS {
            assert_eq!(outcome(fixture, row, ROOT).await, Ok(()), "{row:?} by root");
            let others = outcome(fixture, row, NOBODY).await;
            if row.actions.is_empty() || only_tells_less(row) {
                assert_eq!(others, Ok(()), "{row:?} by another");
                continue;
            }
            let said = others.expect_err(&format!("{row:?} by another"));
            let known = row.actions.iter().any(|action| said.contains(action.id()));
            assert!(said.starts_with(DENIED) && known && said.contains(why), "{row:?}: {said}");
        }
    }
}

#[tokio::test]
async fn every_method_is_in_the_table() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(ROOT, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let methods = methods::all(&Subject { owner: &machine.path(), lock: &locks[0], disk: &disk });
    assert_eq!(methods.len(), METHODS.len());
    // All other methods are denied to all users: the list and the methods agree, with living
    // owners.
    for method in &methods {
        assert!(vmlockd::auth::methods::find(method.interface, method.name).is_some(), "{method}");
    }
}
