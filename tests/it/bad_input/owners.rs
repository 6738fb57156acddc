//! Owners that can't be: a name, a UUID or a process that is none or another's.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;

use nix::unistd::gettid;
use zbus::Fd;

use crate::dbus_client::{Refused, TestVm, manager, option};
use crate::fixture::user::{DAEMON, NOBODY};
use crate::fixture::{Answer, Fixture, pidfd, polkit};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_refused};

const INVALID: &str = "DBus.Error.InvalidArgs";
const NO_SUCH_PROCESS: &str = "DBus.Error.UnixProcessIdUnknown";
const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

#[tokio::test]
async fn a_uuid_is_a_uuid() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let before = Untouched::so_far(&fixture).await;
    for wrong in [
        "web1",
        "4dea22b3-1d52-d8f3-2516-782e98ab3fa",
        "4dea22b3-1d52-d8f3-2516-782e98ab3fa00",
        "4dea22b3-1d52-d8f3-2516-782e98ab3fag",
        "{4dea22b3-1d52-d8f3-2516-782e98ab3fa0}",
        "urn:uuid:4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
        " 4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
        "4dea22b3-1d52-d8f3-2516-782e98ab3fa0\n",
        "00000000-0000-0000-0000-000000000000",
        &"4dea22b3".repeat(1000),
    ] {
        let escaped = wrong.escape_default().to_string();
        let said = format!("'{}", escaped.chars().take(64).collect::<String>());
        let opened = TestVm::open_with(&bus, wrong, "web1", none()).await.unwrap_err();
        assert_refused(&opened, INVALID, &said);
        assert_refused(&opened, INVALID, "' is not a UUID");
        let registered = manager.register_owner(wrong, "web1", 0, none()).await.unwrap_err();
        assert_eq!(Refused::from(registered), opened);
        let found = manager.get_owner(wrong).await.unwrap_err();
        assert_eq!(Refused::from(found), opened);
        before.still(wrong).await;
    }
    let none = Refused::from(manager.get_owner("").await.unwrap_err());
    assert_refused(&none, INVALID, "'' is not a UUID");
    let unknown = Refused::from(manager.get_owner(UUID).await.unwrap_err());
    assert_refused(&unknown, "NoSuchOwner", UUID);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn the_name_of_a_vm_is_short_and_printable() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let before = Untouched::so_far(&fixture).await;
    let deceives = "has a control, bidirectional or invisible character";
    for (name, shown, why) in [
        ("", "name ''", "is empty"),
        (&"ä".repeat(64)[..], "", ""),
        (&format!("{}x", "ä".repeat(64)), "name 'ää", "is longer than 128 bytes"),
        (&"x".repeat(129), "name 'xxx", "is longer than 128 bytes"),
        (&"x".repeat(1_000_000), "name 'xxx", "is longer than 128 bytes"),
        ("a\nERROR all disks lost", "name 'a\\nERROR all", deceives),
        ("a\u{1b}[2J", "name 'a\\u{1b}[2J'", deceives),
        ("a\u{9b}2J", "name 'a\\u{9b}2J'", deceives),
        ("a\u{202e}b", "name 'a\\u{202e}b'", deceives),
        ("a\u{2067}b", "name 'a\\u{2067}b'", deceives),
        ("a\u{200b}b", "name 'a\\u{200b}b'", deceives),
        ("a\u{2028}b", "name 'a\\u{2028}b'", deceives),
        ("a\u{7f}\t\r", "name 'a\\u{7f}\\t\\r'", deceives),
    ] {
        let opened = TestVm::open_with(&bus, "", name, none()).await;
        if why.is_empty() {
            // 128 bytes are right.
            opened.unwrap().owner.close(none()).await.unwrap();
            continue;
        }
        let opened = opened.unwrap_err();
        assert_refused(&opened, INVALID, shown);
        assert_refused(&opened, INVALID, why);
        assert!(opened.message.len() < 1000, "{}", opened.message.len());
        let registered = manager.register_owner("", name, 0, none()).await.unwrap_err();
        assert_eq!(Refused::from(registered), opened);
        before.still(why).await;
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_process_that_does_not_exist_is_refused() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    let manager = manager(&bus).await;
    let mut child = Command::new("true").spawn().unwrap();
    let (pid, gone) = (child.id(), pidfd(child.id()));
    child.wait().unwrap();
    let (tell, thread) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        tell.send(gettid().as_raw().cast_unsigned()).unwrap();
        ended.recv().unwrap_err();
    });
    let thread = thread.recv().unwrap();
    let file = File::open("/dev/null").unwrap();
    let before = Untouched::so_far(&fixture).await;

    for number in [pid, thread, u32::MAX, 1 << 30] {
        let words = format!("process {number} does not exist");
        for refused in [
            machine.owner.bind_pid(number, none()).await.unwrap_err(),
            manager.register_owner("", "web2", number, none()).await.unwrap_err(),
            manager.get_owner_by_pid(number).await.unwrap_err(),
        ] {
            assert_refused(&refused.into(), NO_SUCH_PROCESS, &words);
        }
        before.still(&words).await;
    }
    for (descriptor, error, words) in [
        (gone.as_fd(), NO_SUCH_PROCESS, "has ended"),
        (file.as_fd(), INVALID, "the descriptor is not a process descriptor (pidfd)"),
        (machine.lifeline.as_fd(), INVALID, "the descriptor is not a process descriptor (pidfd)"),
    ] {
        let bound = machine.owner.bind_process(Fd::from(descriptor), none()).await.unwrap_err();
        assert_refused(&bound.into(), error, words);
        let process = option("process", Fd::from(descriptor));
        let opened = TestVm::open_with(&bus, "", "web2", process).await.unwrap_err();
        assert_refused(&opened, error, words);
        before.still(words).await;
    }
    assert_eq!(machine.owner.anchors().await.unwrap(), ["lifeline"]);
    let unbound = manager.get_owner_by_pid(std::process::id()).await.unwrap_err();
    assert_refused(&unbound.into(), "NoSuchOwner", &std::process::id().to_string());
    before.and_it_goes_on().await;
    drop(end);
}

#[tokio::test]
async fn a_process_of_another_user_is_not_bound_without_authorization() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    let allow = |call: &crate::fixture::Call| match call.action.as_str() {
        "org.vmlockd1.register-process" => Answer::Deny,
        _ => Answer::Allow,
    };
    fixture.polkit().mock().decide(allow);
    let bus = fixture.connection_as(NOBODY).await;
    let machine = TestVm::open(&bus, "web1").await;
    let (roots, pid) = (pidfd(std::process::id()), std::process::id());
    let before = Untouched::so_far(&fixture).await;
    let manager = manager(&bus).await;
    let roots = || Fd::from(roots.as_fd());
    for refused in [
        manager.register_owner("", "web2", pid, none()).await.unwrap_err(),
        // 0 is the caller's own process, which here is root's as well.
        manager.register_owner("", "web2", 0, none()).await.unwrap_err(),
        manager.open_owner("", "web2", option("process", roots())).await.unwrap_err(),
        machine.owner.bind_pid(pid, none()).await.unwrap_err(),
        machine.owner.bind_process(roots(), none()).await.unwrap_err(),
    ] {
        let words = "org.vmlockd1.register-process";
        assert_refused(&refused.into(), "DBus.Error.AccessDenied", words);
    }
    assert_eq!(machine.owner.anchors().await.unwrap(), ["lifeline"]);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_uuid_that_another_user_has_opened_is_another_owner() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let third = fixture.connection_as(DAEMON).await;
    let roots = TestVm::open_with(&root, UUID, "web1", none()).await.unwrap();
    let users = TestVm::open_with(&user, UUID, "mine", none()).await.unwrap();
    assert_ne!(roots.path(), users.path());
    let before = Untouched::so_far(&fixture).await;
    for bus in [&root, &user] {
        let again = TestVm::open_with(bus, UUID, "again", none()).await.unwrap_err();
        assert_refused(&again, "OwnerExists", &format!("owner {UUID}"));
        let manager = manager(bus).await;
        let again = manager.register_owner(UUID, "again", 0, none()).await.unwrap_err();
        assert_refused(&again.into(), "OwnerExists", "exists already");
        before.still("again").await;
    }
    let found = async |bus| manager(bus).await.get_owner(UUID).await.unwrap();
    assert_eq!(found(&root).await, roots.path());
    assert_eq!(found(&user).await, users.path());
    assert_eq!(found(&third).await, roots.path());
    // Closing the one lets the other live, and who has none left finds root's.
    users.owner.close(none()).await.unwrap();
    assert_eq!(found(&user).await, roots.path());
    assert_eq!(roots.owner.name().await.unwrap(), "web1");
}
