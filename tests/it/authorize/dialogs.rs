//! Dialogs: begun only if the caller lets it, with our words, and binding for what they are about.

use std::collections::HashMap;
use std::path::Path;

use vmlockd::client::{Options, call};
use zbus::{Connection, OwnedObjectPath};

use super::{DENIED, INTERACTIVE, with_polkit};
use crate::dbus_client::{Answer, Refused, TestVm, exclusive, lock, manager, option, owner};
use crate::fixture::user::{DAEMON, NOBODY, ROOT};
use crate::fixture::{Agent, Fixture, ForeignHolder, LockType, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
const BY_NAME: &str = "org.vmlockd1.acquire-by-name";

/// An agent for whatever this process does on the bus, under any user.
async fn agent(fixture: &Fixture) -> Agent {
    Agent::for_process(fixture.bus(), std::process::id()).await
}

/// Locks a disk by its name, and lets a person be asked.
async fn acquire(machine: &TestVm, disk: &Path) -> Answer<Vec<OwnedObjectPath>> {
    let arguments = (vec![exclusive(disk)], none());
    Ok(call(machine.owner.inner(), "Acquire", &arguments, true).await?)
}

#[tokio::test]
async fn no_dialog_without_the_callers_permission() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let (bus, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(ROOT, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let refused = machine.acquire(&[exclusive(&disk)]).await.unwrap_err();
    let words = format!("{BY_NAME} needs interactive authorization, which the call does not allow");
    assert_refused(&refused, INTERACTIVE, &words);
    // Asking who holds it never begins one, flag or not.
    let manager = manager(&bus).await;
    let asked = (disk.to_str().unwrap(), none());
    let rows: Vec<vmlockd::client::Row> =
        call(manager.inner(), "FindHolders", &asked, true).await.unwrap();
    assert_eq!(rows, []);
    assert!(agent.idle().await);
    assert_free(&disk);
}

#[tokio::test]
async fn a_granted_dialog_authorizes_one_call() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let bus = fixture.connection_as(NOBODY).await;
    let (disk, other) = (fixture.raw_of(ROOT, "disk"), fixture.raw_of(ROOT, "other"));
    let machine = TestVm::open(&bus, "web1").await;
    let grant = async {
        let dialog = agent.next_dialog().await;
        assert_eq!(dialog.action, BY_NAME);
        let message = "Authentication is required to lock or look up the disk DISK for a virtual \
                       machine";
        assert_eq!(dialog.message, message.replace("DISK", disk.to_str().unwrap()));
        assert_eq!(dialog.icon, "drive-harddisk");
        ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap();
        dialog.grant(&agent).await;
    };
    let (locks, ()) = tokio::join!(acquire(&machine, &disk), grant);
    assert_eq!(machine.locks().await, locks.unwrap());
    ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap_err();
    let refused = machine.acquire(&[exclusive(&other)]).await.unwrap_err();
    assert_refused(&refused, INTERACTIVE, BY_NAME);
}

#[tokio::test]
async fn a_dismissed_dialog_denies_the_request() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let (bus, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(ROOT, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let dismiss = async { agent.next_dialog().await.dismiss() };
    let (refused, ()) = tokio::join!(acquire(&machine, &disk), dismiss);
    assert_refused(&refused.unwrap_err(), DENIED, &format!("not authorized for {BY_NAME}"));
    assert_free(&disk);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn without_an_agent_the_request_is_denied() {
    let fixture = with_polkit("").await;
    let (bus, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(ROOT, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let refused = acquire(&machine, &disk).await.unwrap_err();
    assert_refused(&refused, DENIED, "no authentication agent asked for a password");
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_dialog_is_withdrawn_when_its_caller_disconnects() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let (bus, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(ROOT, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let leaves = fixture.connection_as(NOBODY).await;
    let theirs = owner(&leaves, machine.path()).await;
    let arguments = (vec![exclusive(&disk)], none());
    let asked = call::<_, Vec<OwnedObjectPath>>(theirs.inner(), "Acquire", &arguments, true);
    let mut dialog = tokio::select! {
        answer = asked => panic!("{answer:?}"),
        dialog = agent.next_dialog() => dialog,
    };
    drop(theirs);
    leaves.close().await.unwrap();
    dialog.withdrawn().await;
    assert_eq!(machine.locks().await, []);
    assert_free(&disk);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn others_are_served_while_a_dialog_is_open() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let (bus, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(ROOT, "disk"));
    let mine = fixture.raw_of(NOBODY, "mine");
    let machine = TestVm::open(&bus, "web1").await;
    let meanwhile = async {
        let dialog = agent.next_dialog().await;
        // Nothing is held for who has not been let in yet: root is not in anybody's way.
        let roots = TestVm::open(&fixture.connection().await, "roots").await;
        roots.acquire(&[exclusive(&disk)]).await.unwrap();
        let other = fixture.connection_as(DAEMON).await;
        TestVm::open(&other, "others").await.owner.close(none()).await.unwrap();
        // Nor is it asked in its own instance: for the same VM and the same connection.
        machine.acquire_files(&[(&super::read_write(&mine), "exclusive")]).await.unwrap();
        dialog.grant(&agent).await;
        roots
    };
    let (refused, roots) = tokio::join!(acquire(&machine, &disk), meanwhile);
    assert_refused(&refused.unwrap_err(), "LockHeld", "VM \"roots\"");
    drop(roots);
}

#[tokio::test]
async fn each_dialog_says_what_it_is_about() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let disk = fixture.raw_of(ROOT, "disk");
    let roots = TestVm::open_with(&root, UUID, "roots", none()).await.unwrap();
    let locks = roots.acquire(&[exclusive(&disk)]).await.unwrap();
    let mine = TestVm::open(&user, "mine").await;
    let theirs = owner(&user, roots.path()).await;
    let held = lock(&user, &locks[0]).await;
    let manager = manager(&user).await;
    let disk = disk.display();
    for (proxy, method, message) in [
        (
            manager.inner(),
            "Reload",
            "reload the settings of the disk lock service or to".to_owned(),
        ),
        (
            theirs.inner(),
            "Cancel",
            "manage the locks of the virtual machine roots, which".to_owned(),
        ),
        (mine.owner.inner(), "BindPID", "bind the locks of the virtual machine mine to".to_owned()),
        (
            held.inner(),
            "Release",
            format!("break the lock that roots of uid 0 holds on the disk {disk}"),
        ),
    ] {
        let pid = std::process::id();
        let asked = async {
            let answer: zbus::Result<()> = match method {
                "BindPID" => call(proxy, method, &(pid, none()), true).await,
                _ => call(proxy, method, &(none(),), true).await,
            };
            Refused::from(answer.unwrap_err())
        };
        let shown = async {
            let dialog = agent.next_dialog().await;
            let begins = format!("Authentication is required to {message}");
            assert!(dialog.message.starts_with(&begins), "{}", dialog.message);
            assert!(!dialog.message.contains("(null)"), "{}", dialog.message);
            dialog.dismiss();
        };
        let (refused, ()) = within(method, async { tokio::join!(asked, shown) }).await;
        assert_eq!(refused.name, DENIED, "{method}: {refused:?}");
    }
    assert_eq!(roots.locks().await, locks);
}

#[tokio::test]
async fn an_administrator_may_authorize_the_release_of_another_users_lock() {
    let fixture = with_polkit("").await;
    let agent = agent(&fixture).await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let (one, two) = (fixture.raw_of(ROOT, "one"), fixture.raw_of(ROOT, "two"));
    let roots = TestVm::open(&root, "roots").await;
    let locks = roots.acquire(&[exclusive(&one), exclusive(&two)]).await.unwrap();
    // Consent is never kept: each lock is asked about, and each time.
    for (path, disk) in locks.iter().zip([&one, &two]) {
        let grant = async {
            let dialog = agent.next_dialog().await;
            let words = format!("that roots of uid 0 holds on the disk {}", disk.display());
            assert!(dialog.message.ends_with(&words), "{}", dialog.message);
            dialog.grant(&agent).await;
        };
        let (broken, ()) = tokio::join!(release(&user, path, option("force", true)), grant);
        broken.unwrap();
        assert_free(disk);
    }
}

async fn release(bus: &Connection, path: &OwnedObjectPath, options: Options<'_>) -> Answer<()> {
    let proxy = lock(bus, path).await;
    let options: HashMap<_, _> = options;
    Ok(call(proxy.inner(), "Release", &(options,), true).await?)
}
