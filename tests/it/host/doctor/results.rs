//! The results of `vmlockctl doctor` without the service.

use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};

use super::{FORWARDING, Served, doctor, names, on, private};
use crate::fixture::user::NOBODY;
use crate::fixture::{Fixture, LoopDevice, TestMount, run};

/// Asserts what it says of a directory, and that it leaves nothing behind.
async fn assert_result(fixture: &Fixture, at: &Path, code: i32, result: &str, words: &str) {
    let before = names(at);
    let (ended, remarks) = doctor(fixture, at).await;
    let told = on(&remarks, "result");
    assert_eq!(told["about"]["result"], result, "{remarks:#?}");
    assert!(told["message"].as_str().unwrap().contains(words), "{told:#}");
    assert_eq!(ended, code, "{remarks:#?}");
    assert_eq!(names(at), before);
}

#[tokio::test]
async fn a_file_system_of_the_host_is_local() {
    let disk = LoopDevice::new();
    let fixture = Fixture::builder().without_daemon().start().await;
    File::options().write(true).open(disk.file()).unwrap().set_len(8 << 20).unwrap();
    let mut resize = tokio::process::Command::new("losetup");
    resize.arg("--set-capacity").arg(disk.node());
    run(resize).await.ok();
    let mut make = tokio::process::Command::new("mkfs.ext4");
    make.arg("-q").arg(disk.node());
    run(make).await.ok();
    let at = private(&fixture.dir().join("ext4"));
    mount(Some(disk.node()), &at, Some("ext4"), MsFlags::empty(), None::<&str>).unwrap();
    let own = "this host only: other hosts cannot mount the file system";
    assert_result(&fixture, &at, 0, "local", own).await;
    let image = at.join("disk.img");
    fs::write(&image, "a disk").unwrap();
    assert_result(&fixture, &at, 0, "local", own).await;
    // A disk is looked at from beside it.
    let (code, remarks) = doctor(&fixture, &image).await;
    assert_eq!((code, &on(&remarks, "result")["about"]["filesystem"]), (0, &"ext4".into()));
    assert_eq!(fs::read(&image).unwrap(), b"a disk");
    umount(&at).unwrap();

    let memory = fixture.dir().join("memory");
    let _mounted = TestMount::roomy(&memory);
    assert_result(&fixture, &memory, 0, "local", own).await;
    let (_, remarks) = doctor(&fixture, &memory).await;
    assert_eq!(remarks.iter().filter(|remark| remark["state"] == "ok").count(), 10);
    let facts = &on(&remarks, "result")["about"];
    assert_eq!((&facts["source"], &facts["mount-point"]), (&"none".into(), &facts["directory"]));
}

#[tokio::test]
async fn an_overlay_is_not_what_lies_below() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let below = fixture.dir().join("below");
    let _below = TestMount::roomy(&below);
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| private(&below.join(name)));
    let merged = private(&fixture.dir().join("merged"));
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let kind = Some("overlay");
    mount(kind, &merged, kind, MsFlags::empty(), Some(options.as_str())).unwrap();
    assert_result(
        &fixture,
        &merged,
        78,
        "not-shared",
        "an overlay does not share locks with its layers",
    )
    .await;
    umount(&merged).unwrap();
}

#[tokio::test]
async fn a_conflicting_lock_is_distinguished_from_a_lost_one() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(served) = Served::mount(&fixture, &[]).await else { return };
    assert_result(&fixture, &served.at, 78, "not-shared", "it is served by a process").await;
    assert_eq!(names(&served.behind), Vec::<std::path::PathBuf>::new());
    drop(served);

    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(served) = Served::mount(&fixture, &FORWARDING).await else { return };
    assert_result(&fixture, &served.at, 1, "unusable", "both acquired the lock").await;
    let (_, remarks) = doctor(&fixture, &served.at).await;
    assert_eq!(on(&remarks, "files")["state"], "danger", "{remarks:#?}");
    assert_eq!(names(&served.behind), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_read_only_directory_cannot_be_locked() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let (from, at) = (private(&fixture.dir().join("from")), fixture.dir().join("at"));
    let mounted = TestMount::read_only(&from, &at);
    assert_result(&fixture, &at, 1, "unusable", "read-only").await;
    drop(mounted);
    // No process is root here.
    fs::set_permissions(&from, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let words = ["doctor", from.to_str().unwrap()];
    let ran = fixture.run_as(NOBODY, "vmlockctl", &words).await;
    assert_eq!(ran.status.code(), Some(78), "{ran:#?}");
    assert!(ran.stdout.contains("not tested: this user cannot create files there"), "{ran:#?}");
}

#[tokio::test]
async fn an_unsuitable_directory_is_refused_with_the_reason() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let missing = fixture.dir().join("missing");
    let long = format!("/{}", "x".repeat(5000));
    for (arguments, code, said) in [
        (vec!["doctor", missing.to_str().unwrap()], 66, "does not exist"),
        (vec!["doctor", "/dev/null"], 64, "neither a directory nor a disk"),
        (vec!["doctor", ""], 64, ""),
        (vec!["doctor", "a", "b"], 64, "unexpected argument"),
    ] {
        let ran = fixture.run("vmlockctl", &arguments).await;
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:#?}");
        assert!(ran.stderr.contains(said) && ran.stdout.is_empty(), "{ran:#?}");
    }
    let ran = fixture.run("vmlockctl", &["doctor", &long]).await;
    assert_eq!(ran.status.code(), Some(78), "{ran:#?}");
    let disk = LoopDevice::new();
    let ran = fixture.run("vmlockctl", &["doctor", disk.node().to_str().unwrap()]).await;
    assert_eq!(ran.status.code(), Some(78), "{ran:#?}");
    assert!(ran.stdout.contains("lvm_lockspace_dir"), "{ran:#?}");
}

/// Whatever lies where the hosts are, none of it is believed or costs anything.
#[tokio::test]
async fn foreign_files_in_the_presence_directory_are_ignored() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let at = private(&fixture.dir().join("locks"));
    let hosts = private(&at.join("hosts"));
    fs::write(hosts.join("huge"), vec![b'['; 4 << 20]).unwrap();
    fs::write(hosts.join("escapes"), "\n{\"name\":\"\u{1b}[2J\"}").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", hosts.join("link")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", hosts.join("zero")).unwrap();
    fs::write(hosts.join("A\u{1b}[2J"), "").unwrap();
    for n in 0..1000 {
        fs::write(hosts.join(format!("many-{n}")), "{}").unwrap();
    }
    let ran = fixture.run("vmlockctl", &["doctor", at.to_str().unwrap()]).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:#?}");
    assert!(!ran.stdout.contains(['\u{1b}']) && !ran.stdout.contains("root:"), "{ran:#?}");
    let told = ran.stdout.lines().filter(|line| line.contains("cannot be parsed")).count();
    assert!((1..=256).contains(&told), "{told}");
}
