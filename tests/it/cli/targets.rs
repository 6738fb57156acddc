//! Targets: every command reads them alike, and takes what another one prints.

use serde_json::Value;

use super::{fails, json, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, polkit};

/// The numbers of the locks that `list` prints with these arguments.
async fn listed(fixture: &Fixture, arguments: &[&str]) -> Vec<u64> {
    let locks = json(fixture, &[&["list"], arguments].concat()).await;
    let number = |lock: &Value| lock["generation"].as_u64().unwrap();
    locks.as_array().unwrap().iter().map(number).collect()
}

#[tokio::test]
async fn printed_targets_are_accepted() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let line = ["lock", "--name", "backup", str(&a), str(&b)];
    let printed = vmlockctl(&fixture, &line).await.ok();
    let uuid = printed.lines().next().unwrap();
    let numbers: Vec<&str> =
        printed.lines().skip(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    let owners = vmlockctl(&fixture, &["owners"]).await.ok();
    let short = owners.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    let owner = json(&fixture, &["owners"]).await[0]["owner"].as_str().unwrap().to_owned();
    let lock = json(&fixture, &["list"]).await[0]["lock"].as_str().unwrap().to_owned();
    for target in [uuid, short, "backup", &owner, numbers[0], &lock, str(&a)] {
        vmlockctl(&fixture, &["show", target]).await.ok();
        let who = vmlockctl(&fixture, &["who", target]).await.ok();
        assert!(who.contains("VM \"backup\""), "{who}");
    }
    assert_eq!(json(&fixture, &["who", "backup"]).await.as_array().unwrap().len(), 2);
    assert_eq!(json(&fixture, &["resolve", numbers[1]]).await["resource"], str(&b));
    assert!(fails(&fixture, 64, &["resolve", "backup"]).await.contains("holds 2 disks"));

    vmlockctl(&fixture, &["unlock", numbers[0]]).await.ok();
    assert_eq!(listed(&fixture, &[]).await, [numbers[1].parse::<u64>().unwrap()]);
    let said = fails(&fixture, 66, &["unlock", numbers[0]]).await;
    assert!(said.contains(&format!("there is no lock {}", numbers[0])), "{said}");
    vmlockctl(&fixture, &["unlock", numbers[1]]).await.ok();
    // With its last lock, the owner of such locks has ended.
    let said = fails(&fixture, 66, &["show", "backup"]).await;
    assert!(said.contains("there is no owner 'backup'"), "{said}");
    assert!(said.contains("'vmlockctl owners'"), "{said}");
}

#[tokio::test]
async fn release_takes_all_locks_of_an_owner() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let web1 = TestVm::open(&fixture.connection().await, "web1").await;
    web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();
    vmlockctl(&fixture, &["release", "web1"]).await.ok();
    assert!(web1.locks().await.is_empty());
    let said = fails(&fixture, 66, &["release", "web1"]).await;
    assert!(said.contains("holds no lock"), "{said}");
}

#[tokio::test]
async fn list_prints_what_its_filters_let_through() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().decide(|_| Answer::Allow);
    let (a, b) = (fixture.image("a.qcow2").await, fixture.raw_of(NOBODY, "b.raw"));
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[shared(&a)]).await.unwrap();
    web2.acquire(&[shared(&a)]).await.unwrap();
    let line = ["--system", "lock", "--name", "other", str(&b)];
    fixture.run_as(NOBODY, "vmlockctl", &line).await.ok();
    let user = NOBODY.to_string();
    for (arguments, numbers) in [
        (&[][..], &[1, 2, 3][..]),
        (&["--owner", "web1"], &[1]),
        (&["--user", "root"], &[1, 2]),
        (&["--user", &user], &[3]),
        (&[str(&a)], &[1, 2]),
        (&[str(&a), "--owner", "web2"], &[2]),
        (&["3", "web1"], &[1, 3]),
        (&["--user", "root", str(&b)], &[]),
    ] {
        assert_eq!(listed(&fixture, arguments).await, numbers, "{arguments:?}");
    }
    let ran = vmlockctl(&fixture, &["list", "--user", "root", str(&b)]).await;
    assert_eq!((ran.status.code(), ran.stderr.as_str()), (Some(0), "no such locks\n"));
    let said = fails(&fixture, 64, &["list", "--user", "no-such-user"]).await;
    assert!(said.contains("there is no such user"), "{said}");
    fails(&fixture, 66, &["list", "--owner", "web3"]).await;
    drop((web1, web2));
}

#[tokio::test]
async fn a_file_of_the_current_directory_needs_no_slash_and_a_number_is_a_lock() {
    let fixture = Fixture::builder().start().await;
    for name in ["web1", "1"] {
        fixture.image(name).await;
    }
    let here = async |arguments: &[&str]| {
        let mut command = fixture.command("vmlockctl");
        command.current_dir(fixture.dir()).args(arguments);
        crate::fixture::run(command).await
    };
    here(&["lock", "--name", "backup", "web1"]).await.ok();
    here(&["show", "web1"]).await.ok();
    let said = here(&["who", "web1"]).await.ok();
    assert!(said.contains("/web1 is locked exclusively by VM \"backup\""), "{said}");
    let said = here(&["who", "1"]).await.ok();
    assert!(said.contains("/web1 is locked exclusively by VM \"backup\""), "{said}");
    assert_eq!(here(&["who", "./1"]).await.status.code(), Some(3));
    let ran = here(&["unlock", "2"]).await;
    assert_eq!(ran.status.code(), Some(66), "{ran:?}");
    here(&["unlock", "web1"]).await.ok();
}

#[tokio::test]
async fn a_name_that_could_not_be_a_target_is_refused() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for (name, why) in [
        ("16", "only digits"),
        ("a/b", "contains a slash"),
        ("lease:x", "taken for a lease"),
        ("4dea22b3", "taken for a UUID"),
        ("", "is empty"),
    ] {
        let name = format!("--name={name}");
        for line in [&["lock", &name, "/a"][..], &["run", &name, "--disk", "/a", "--", "true"]] {
            let said = fails(&fixture, 64, line).await;
            assert!(said.contains(why), "{said}");
        }
    }
}
