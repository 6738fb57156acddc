//! Locks of other users, files that a user may not write, and targets that name an owner otherwise
//! than by its name.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::names::fixture;
use super::{fails, json, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, polkit};
use crate::methods::none;
use crate::refused_requests::assert_free;

#[tokio::test]
async fn root_unlocks_by_force_what_another_user_has_locked() {
    let fixture = fixture().await;
    let disk = fixture.raw_of(NOBODY, "a");
    let line = ["--system", "lock", "--name", "dl", str(&disk)];
    for target in ["dl", "1", str(&disk)] {
        fixture.run_as(NOBODY, "vmlockctl", &line).await.ok();
        let number = json(&fixture, &["list"]).await[0]["generation"].to_string();
        let target = if target == "1" { number.as_str() } else { target };
        let said = fails(&fixture, 77, &["unlock", target]).await;
        let words = format!("belongs to user nobody; 'vmlockctl unlock --force {target}' unlocks");
        assert!(said.contains("VM \"dl\" (") && said.contains(&words), "{said}");
        let said = fails(&fixture, 77, &["release", target]).await;
        let words = format!("'vmlockctl unlock --force {number}' unlocks it");
        assert!(said.contains(&words) && !said.contains("is alive"), "{said}");
        vmlockctl(&fixture, &["unlock", "--force", target]).await.ok();
        assert_free(&disk);
        assert_eq!(json(&fixture, &["owners"]).await, serde_json::json!([]));
    }
    // An owner that 'release' leaves without locks is reported, and can be ended.
    fixture.run_as(NOBODY, "vmlockctl", &line).await.ok();
    vmlockctl(&fixture, &["release", "--force", "dl"]).await.ok();
    let told = vmlockctl(&fixture, &["doctor"]).await.stdout;
    assert!(told.contains("is left over and holds no locks; end it with"), "{told}");
    vmlockctl(&fixture, &["unlock", "dl"]).await.ok();
}

#[tokio::test]
async fn a_file_that_the_user_may_not_write_is_refused_with_this_cause() {
    let fixture = fixture().await;
    let disk = fixture.raw_of(0, "m.qcow2");
    fs::set_permissions(&disk, Permissions::from_mode(0o644)).unwrap();
    let web1 = TestVm::open(&fixture.connection().await, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let path = str(&disk);
    for line in [
        &["--system", "run", "--disk", path, "--", "true"][..],
        &["--system", "lock", path],
        &["--system", "lock", "--wait=1s", path],
    ] {
        let ran = fixture.run_as(NOBODY, "vmlockctl", line).await;
        assert_eq!(ran.status.code(), Some(77), "{ran:?}");
        let begins = format!(
            "vmlockctl: cannot open {path} for writing: Permission denied; disk {path} is locked \
             exclusively by VM \"web1\""
        );
        let said = ran.stderr;
        assert!(said.starts_with(&begins) && said.ends_with("or as root\n"), "{said}");
        assert!(!said.contains("acquire-by-name"), "{said}");
    }
}

#[tokio::test]
async fn a_directory_is_no_disk_for_any_command() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let directory = fixture.dir().join("img");
    fs::create_dir(&directory).unwrap();
    for name in ["img", "./img", "img/", str(&directory)] {
        for verb in ["lock", "who", "show"] {
            for uid in [0, NOBODY] {
                let mut command = fixture.command_as(uid, "vmlockctl");
                command.current_dir(fixture.dir()).args(["--system", verb, name]);
                let ran = crate::fixture::run(command).await;
                assert_eq!(ran.status.code(), Some(64), "{verb} {name} by {uid}: {ran:?}");
                assert!(ran.stderr.contains("is a directory; give the path"), "{ran:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_lock_or_a_disk_names_the_owner_that_holds_it() {
    let fixture = Fixture::builder().start().await;
    let [a, b] = ["a", "b"].map(|name| fixture.raw_of(0, name));
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();
    for target in ["1", str(&a), "web1"] {
        let locks = json(&fixture, &["list", "--owner", target]).await;
        assert_eq!(locks.as_array().unwrap().len(), 2, "{target}: {locks}");
    }
    let shown = vmlockctl(&fixture, &["show", "web1"]).await.ok();
    for words in ["\nsince: ", &format!(" 1 exclusive {}\n", str(&a))] {
        let compact = shown.replace("  ", " ").replace("  ", " ").replace("  ", " ");
        assert!(compact.contains(words), "no {words} in {shown}");
    }
    for target in [str(&a), str(&b)] {
        let said = vmlockctl(&fixture, &["suspend", target]).await.ok();
        assert!(said.starts_with("VM \"web1\""), "{said}");
        let ran = vmlockctl(&fixture, &["list", "web1"]).await;
        assert!(ran.stderr.ends_with("is suspended; it remembers 2 locks\n"), "{ran:?}");
        let told = vmlockctl(&fixture, &["doctor"]).await.stdout;
        assert!(told.contains("1 owner, which is suspended"), "{told}");
        let said = vmlockctl(&fixture, &["resume", target]).await.ok();
        assert!(said.contains("VM \"web1\"") && said.contains("is resumed"), "{said}");
    }
    let number = json(&fixture, &["list"]).await[0]["generation"].to_string();
    vmlockctl(&fixture, &["suspend", &number]).await.ok();
    let said = fails(&fixture, 66, &["suspend", str(&a)]).await;
    assert!(said.contains("is not locked"), "{said}");
    vmlockctl(&fixture, &["resume", "web1"]).await.ok();
    web1.owner.close(none()).await.unwrap();
    let said = fails(&fixture, 66, &["resume", str(&a)]).await;
    assert!(said.contains("no suspended owner held disk"), "{said}");
}

#[tokio::test]
async fn resume_says_that_the_locks_were_handed_over() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "a");
    let bus = fixture.connection().await;
    let (source, target) = (TestVm::open(&bus, "source").await, TestVm::open(&bus, "target").await);
    source.acquire(&[exclusive(&disk)]).await.unwrap();
    let token = source.owner.offer(none()).await.unwrap();
    target.owner.adopt(&token, none()).await.unwrap();
    let said = fails(&fixture, 75, &["resume", "source"]).await;
    assert!(said.contains("the locks of this owner were handed over"), "{said}");
}

#[tokio::test]
async fn show_describes_a_foreign_holder_in_a_sentence() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "a");
    let _foreign_holder =
        crate::fixture::ForeignHolder::hold(&disk, crate::fixture::LockType::Ofd, true).unwrap();
    let shown = vmlockctl(&fixture, &["show", str(&disk)]).await.ok();
    assert_eq!(shown, vmlockctl(&fixture, &["who", str(&disk)]).await.ok());
}

#[tokio::test]
async fn without_polkit_other_users_get_an_explanation() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(NOBODY, "a");
    let ran = fixture.run_as(NOBODY, "vmlockctl", &["--system", "lock", str(&disk)]).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:?}");
    let ends = "polkit is not running or not installed; only root can use this service\n";
    assert!(ran.stderr.ends_with(ends), "{ran:?}");
    let told = vmlockctl(&fixture, &["doctor"]).await.stdout;
    assert!(told.contains("polkit is not running: only root can use vmlockd"), "{told}");
}
