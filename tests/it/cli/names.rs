//! A disk that was deleted, moved or replaced while it is locked: it is found by the name that `list`
//! shows, and its state is told.

use std::fs;
use std::path::{Path, PathBuf};

use super::{str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::{NOBODY, ROOT};
use crate::fixture::{Answer, Call, CommandOutput, Fixture, polkit};
use crate::refused_requests::assert_free;

/// A fixture in which polkit permits everything but disks by name.
pub(super) async fn fixture() -> Fixture {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().decide(|call: &Call| match call.action.as_str() {
        "org.vmlockd1.acquire-by-name" => Answer::Deny,
        _ => Answer::Allow,
    });
    fixture
}

async fn ctl(fixture: &Fixture, uid: u32, line: &[&str]) -> CommandOutput {
    fixture.run_as(uid, "vmlockctl", &[&["--system"], line].concat()).await
}

/// Makes a folder with a disk of this user's, and locks that.
async fn locked(fixture: &Fixture, uid: u32, name: &str) -> PathBuf {
    let folder = fixture.dir().join(format!("{name}-{uid}"));
    fs::create_dir(&folder).unwrap();
    let disk = folder.join("disk");
    fs::rename(fixture.raw_of(uid, &format!("{name}-{uid}.raw")), &disk).unwrap();
    ctl(fixture, uid, &["lock", "--name", name, str(&disk)]).await.ok();
    disk
}

/// Performs the change `what` on a disk, and returns its path afterwards, if it has one.
fn act(fixture: &Fixture, uid: u32, what: &str, disk: &Path) -> Option<PathBuf> {
    let beside = disk.with_extension("old");
    match what {
        "deleted" => fs::remove_file(disk).unwrap(),
        "moved" => fs::rename(disk, &beside).unwrap(),
        "replaced" => {
            fs::rename(disk, &beside).unwrap();
            fs::rename(fixture.raw_of(uid, &format!("new-{uid}.raw")), disk).unwrap();
        }
        _ => {
            let folder = disk.parent().unwrap().with_extension("old");
            fs::rename(disk.parent().unwrap(), &folder).unwrap();
            return Some(folder.join("disk"));
        }
    }
    beside.exists().then_some(beside)
}

#[tokio::test]
async fn listed_disks_are_found_by_name_even_if_the_file_has_changed() {
    let fixture = fixture().await;
    for uid in [ROOT, NOBODY] {
        for what in ["deleted", "moved", "replaced", "folder"] {
            let disk = locked(&fixture, uid, what).await;
            let there = act(&fixture, uid, what, &disk);
            let path = str(&disk);
            let listed = ctl(&fixture, uid, &["list"]).await.ok();
            let word = if what == "replaced" { "replaced" } else { "deleted" };
            let row = listed.lines().find(|line| line.contains(path)).unwrap();
            assert!(row.contains(&format!("  {word}  ")), "{row}");
            let who = ctl(&fixture, uid, &["who", path]).await.ok();
            assert!(who.contains(&format!("VM \"{what}\"")) && who.contains(word), "{who}");
            // By where it is now, it is found as any disk.
            if let Some(there) = there {
                let who = ctl(&fixture, uid, &["who", str(&there)]).await.ok();
                assert!(who.contains(&format!(", through {path} ({word})")), "{who}");
            }
            let shown = ctl(&fixture, uid, &["show", path]).await.ok();
            assert!(shown.contains(word) && shown.contains(path), "{shown}");
            ctl(&fixture, uid, &["unlock", path]).await.ok();
            let who = ctl(&fixture, uid, &["who", path]).await;
            assert!(!who.status.success() && who.stdout.is_empty(), "{who:?}");
            let disk = locked(&fixture, uid, &format!("{what}-again")).await;
            act(&fixture, uid, if what == "replaced" { "moved" } else { what }, &disk);
            ctl(&fixture, uid, &["release", str(&disk)]).await.ok();
        }
    }
    assert_eq!(vmlockctl(&fixture, &["--json", "list"]).await.ok().trim(), "[]");
}

#[tokio::test]
async fn a_path_with_two_locks_releases_neither_and_doctor_reports_both() {
    let fixture = fixture().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let path = str(&disk);
    let old = TestVm::open(&bus, "old").await;
    old.acquire(&[exclusive(&disk)]).await.unwrap();
    fs::rename(fixture.raw_of(0, "raw"), &disk).unwrap();
    let new = TestVm::open(&bus, "new").await;
    new.acquire(&[exclusive(&disk)]).await.unwrap();

    let who = vmlockctl(&fixture, &["who", path]).await.ok();
    let lines: Vec<&str> = who.lines().collect();
    let [first, second] = lines[..] else { panic!("{who}") };
    assert!(
        first.starts_with(&format!("disk {path} is locked exclusively by VM \"new\"")),
        "{who}"
    );
    let begins = format!(
        "disk {path}: the file was replaced, and its name leads to another one; that file is \
         locked exclusively by VM \"old\""
    );
    assert!(second.starts_with(&begins), "{who}");
    for line in [&["release", path][..], &["release", "--force", path], &["unlock", path]] {
        let ran = vmlockctl(&fixture, line).await;
        assert_eq!(ran.status.code(), Some(64), "{line:?}: {ran:?}");
        let words = "locks 2 (VM \"new\"), 1 (VM \"old\", replaced)";
        let said = ran.stderr;
        assert!(said.contains(words) && said.contains("give the number of one"), "{said}");
    }
    let ran = vmlockctl(&fixture, &["doctor"]).await;
    let about = |line: &&str| line.contains(path);
    let lines: Vec<&str> = ran.stdout.lines().filter(about).collect();
    let [line] = lines[..] else { panic!("{}", ran.stdout) };
    assert!(line.starts_with("warning") && line.contains("lock 1 on"), "{line}");
    assert!(line.contains("replaced") && line.contains("VM \"old\""), "{line}");
    assert_eq!((old.locks().await.len(), new.locks().await.len()), (1, 1));
    vmlockctl(&fixture, &["release", "1"]).await.ok();
    assert!(old.locks().await.is_empty());
    vmlockctl(&fixture, &["release", path]).await.ok();
    assert_free(&disk);
}

#[tokio::test]
async fn a_disk_that_was_shown_without_a_name_is_found_as_it_is_listed() {
    let fixture = fixture().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "disk");
    let file = fs::File::options().read(true).write(true).open(&disk).unwrap();
    let link = fixture.dir().join("link");
    fs::hard_link(&disk, &link).unwrap();
    // Its name is gone, so that it is known by its inode alone.
    fs::remove_file(&disk).unwrap();
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    let locks = super::json(&fixture, &["list"]).await;
    let name = locks[0]["resource"].as_str().unwrap();
    assert!(name.starts_with("fd:inode:"), "{name}");
    for line in [["who", name], ["show", name], ["release", name]] {
        vmlockctl(&fixture, &line).await.ok();
    }
    assert!(web1.locks().await.is_empty());
}
