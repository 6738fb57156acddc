//! A site's own rules, with the real polkit.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::unistd::{Gid, Group};

use super::{DENIED, INTERACTIVE, read_write, with_polkit};
use crate::dbus_client::{Refused, TestVm, exclusive, manager, option, shared};
use crate::fixture::user::{Account, NOBODY, ROOT};
use crate::fixture::{Fixture, OpenWatch, polkit};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
const BY_NAME: &str = "org.vmlockd1.acquire-by-name";

/// A rule that lets every user name the disks below the fixture's directory `images`.
const IMAGES: &str = r#"
    polkit.addRule(function (action, subject) {
        var name = action.lookup("resource");
        if (action.id == "org.vmlockd1.acquire-by-name" && name &&
                name.indexOf("@DIR@/images/") === 0)
            return polkit.Result.YES;
    });"#;

#[tokio::test]
async fn rules_see_vm_disk_and_mode() {
    let fixture = with_polkit(
        r#"polkit.addRule(function (action, subject) {
            if (action.id == "org.vmlockd1.acquire-by-name" &&
                    action.lookup("vm") == "web1" &&
                    action.lookup("uuid") == "4dea22b3-1d52-d8f3-2516-782e98ab3fa0" &&
                    action.lookup("resource") == "@DIR@/disk" &&
                    action.lookup("mode") == "shared" &&
                    subject.user == "nobody")
                return polkit.Result.YES;
        });"#,
    )
    .await;
    let bus = fixture.connection_as(NOBODY).await;
    let (disk, other) = (fixture.raw_of(ROOT, "disk"), fixture.raw_of(ROOT, "other"));
    let web1 = TestVm::open_with(&bus, UUID, "web1", none()).await.unwrap();
    web1.acquire(&[shared(&disk)]).await.unwrap();
    for disk_request in [exclusive(&disk), shared(&other)] {
        assert_refused(&web1.acquire(&[disk_request]).await.unwrap_err(), INTERACTIVE, BY_NAME);
    }
    web1.owner.close(none()).await.unwrap();
    let disks = || option("resources", vec![shared(&disk)]);
    for (uuid, name) in [(UUID, "web2"), ("4dea22b3-1d52-d8f3-2516-782e98ab3fa1", "web1")] {
        let refused = TestVm::open_with(&bus, uuid, name, disks()).await.unwrap_err();
        assert_refused(&refused, INTERACTIVE, BY_NAME);
    }
    TestVm::open_with(&bus, UUID, "web1", disks()).await.unwrap();
}

#[tokio::test]
async fn rules_may_deny_what_is_allowed_by_default() {
    let fixture = with_polkit(
        r#"polkit.addRule(function (action, subject) {
            if (action.id == "org.vmlockd1.open-owner" && action.lookup("vm") == "game")
                return polkit.Result.NO;
            if (action.id == "org.vmlockd1.acquire-by-descriptor" &&
                    action.lookup("resource").indexOf("@DIR@/images/") !== 0)
                return polkit.Result.NO;
        });"#,
    )
    .await;
    fs::create_dir(fixture.dir().join("images")).unwrap();
    let bus = fixture.connection_as(NOBODY).await;
    let refused = TestVm::open_with(&bus, "", "game", none()).await.unwrap_err();
    assert_refused(&refused, DENIED, "not authorized for org.vmlockd1.open-owner: polkit refused");
    let machine = TestVm::open(&bus, "web1").await;
    let inside = read_write(&fixture.raw_of(NOBODY, "images/disk"));
    let outside = read_write(&fixture.raw_of(NOBODY, "disk"));
    let before = Untouched::so_far(&fixture).await;
    for disk_request in [&[&outside][..], &[&inside, &outside]] {
        let files: Vec<_> = disk_request.iter().map(|file| (*file as _, "exclusive")).collect();
        let refused = machine.acquire_files(&files).await.unwrap_err();
        assert_refused(&refused, DENIED, "org.vmlockd1.acquire-by-descriptor: polkit refused");
        before.still("outside").await;
    }
    machine.acquire_files(&[(&inside, "exclusive")]).await.unwrap();
}

#[tokio::test]
async fn the_example_lets_a_group_lock_below_one_directory() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/polkit/vmlockd.rules.example");
    let example = fs::read_to_string(example).unwrap();
    let gid = Gid::from_raw(Account::of(NOBODY).gid);
    let group = Group::from_gid(gid).unwrap().unwrap().name;
    for (group, member) in [(group.as_str(), true), ("root", false)] {
        let (directory, libvirt) = ("\"/var/lib/libvirt/images/\"", "(\"libvirt\")");
        assert!(example.contains(directory) && example.contains(libvirt));
        let rules = example.replace(directory, "\"@DIR@/images/\"");
        let fixture = with_polkit(&rules.replace(libvirt, &format!("(\"{group}\")"))).await;
        fs::create_dir(fixture.dir().join("images")).unwrap();
        let inside = fixture.raw_of(ROOT, "images/disk");
        let outside = fixture.raw_of(ROOT, "disk");
        let bus = fixture.connection_as(NOBODY).await;
        let machine = TestVm::open(&bus, "web1").await;
        let locked = machine.acquire(&[exclusive(&inside)]).await;
        if member {
            locked.unwrap();
        } else {
            assert_refused(&locked.unwrap_err(), INTERACTIVE, BY_NAME);
        }
        let refused = machine.acquire(&[exclusive(&outside)]).await.unwrap_err();
        assert_refused(&refused, INTERACTIVE, BY_NAME);
    }
}

/// A fixture where every user may name the disks in a directory that one of them can write.
async fn with_images() -> Fixture {
    let rules = IMAGES.to_owned();
    let fixture = Fixture::builder().polkit(polkit::Choice::Real { rules }).start().await;
    let images = fixture.dir().join("images");
    fs::create_dir(&images).unwrap();
    std::os::unix::fs::chown(&images, Some(NOBODY), None).unwrap();
    fixture
}

#[tokio::test]
async fn no_link_leads_out_of_an_allowed_directory() {
    let fixture = with_images().await;
    let (bus, dir) = (fixture.connection_as(NOBODY).await, fixture.dir());
    let (secret, inside) = (fixture.raw_of(ROOT, "secret"), fixture.raw_of(NOBODY, "images/disk"));
    symlink(&secret, dir.join("images/out")).unwrap();
    symlink("../secret", dir.join("images/relative")).unwrap();
    symlink(dir, dir.join("images/folder")).unwrap();
    symlink("disk", dir.join("images/in")).unwrap();
    fs::create_dir(dir.join("images-of-others")).unwrap();
    fixture.raw_of(ROOT, "images-of-others/disk");
    let machine = TestVm::open(&bus, "web1").await;
    let manager = manager(&bus).await;
    let before = Untouched::so_far(&fixture).await;
    let opened = OpenWatch::watch([secret.as_path()]);
    let link = "leads through a symbolic link, which only root may use";
    for (name, error, words) in [
        ("images/out", "NotLockable", link),
        ("images/relative", "NotLockable", link),
        ("images/folder/secret", "NotLockable", link),
        // Not even a link that leads to a permitted directory.
        ("images/in", "NotLockable", link),
        ("images-of-others/disk", INTERACTIVE, BY_NAME),
        ("./images/disk", INTERACTIVE, BY_NAME),
        ("/images/disk", INTERACTIVE, BY_NAME),
    ] {
        // Put together as text: a path would be tidied up.
        let disk = format!("{}/{name}", dir.display());
        for refused in [
            machine.acquire(&[(&disk, "exclusive")]).await.unwrap_err(),
            machine.acquire(&[(&disk, "shared")]).await.unwrap_err(),
            manager.resolve(&disk, none()).await.unwrap_err().into(),
        ] {
            assert_refused(&refused, error, words);
        }
        assert_eq!(manager.find_holders(&disk, none()).await.unwrap(), []);
        assert!(!opened.any(), "{name}");
        before.still(name).await;
    }
    assert_free(&secret);
    let locks = machine.acquire(&[exclusive(&inside)]).await.unwrap();
    machine.release(&locks).await.unwrap();
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn only_root_may_name_paths_with_dot_dot() {
    let fixture = with_images().await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let secret = fixture.raw_of(ROOT, "secret");
    fixture.raw_of(ROOT, "images/disk");
    let (mine, roots) = (TestVm::open(&user, "mine").await, TestVm::open(&root, "roots").await);
    let manager = manager(&user).await;
    let before = Untouched::so_far(&fixture).await;
    for name in ["images/../secret", "images/../images/disk", "images/disk/..", "images/.."] {
        let disk = fixture.dir().join(name);
        for refused in [
            mine.acquire(&[exclusive(&disk)]).await.unwrap_err(),
            manager.resolve(disk.to_str().unwrap(), none()).await.unwrap_err().into(),
        ] {
            let words = format!("path '{}' has '..' in it, which needs root", disk.display());
            assert_refused(&refused, "DBus.Error.InvalidArgs", &words);
        }
        assert_eq!(manager.find_holders(disk.to_str().unwrap(), none()).await.unwrap(), []);
    }
    assert_free(&secret);
    before.still("climbing").await;
    let climbs = fixture.dir().join("images/../secret");
    roots.acquire(&[exclusive(&climbs)]).await.unwrap();
}

#[tokio::test]
async fn no_symlink_in_an_allowed_directory_reveals_other_files() {
    let fixture = with_images().await;
    let (bus, dir) = (fixture.connection_as(NOBODY).await, fixture.dir());
    let private = dir.join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fixture.raw_of(ROOT, "private/there");
    fs::create_dir(private.join("folder")).unwrap();
    let machine = TestVm::open(&bus, "web1").await;
    let manager = manager(&bus).await;
    let mut said = Vec::new();
    for target in ["there", "missing", "folder", "there/below", "folder/missing"] {
        let link = dir.join("images/link");
        symlink(private.join(target), &link).unwrap();
        said.push((target, machine.acquire(&[shared(&link)]).await.unwrap_err()));
        let name = link.to_str().unwrap();
        said.push((target, manager.resolve(name, none()).await.unwrap_err().into()));
        fs::remove_file(&link).unwrap();
    }
    let first = &said[0].1;
    assert!(said.iter().all(|(_, refused)| refused == first), "{said:#?}");
    // Problems in the directory itself are reported to the user.
    let missing = dir.join("images/missing");
    let refused = machine.acquire(&[shared(&missing)]).await.unwrap_err();
    assert_refused(&refused, "DBus.Error.FileNotFound", "images/missing does not exist");
    let folder: &Path = &dir.join("images/folder");
    fs::create_dir(folder).unwrap();
    let refused = machine.acquire(&[shared(folder)]).await.unwrap_err();
    assert_refused(&refused, "NotLockable", "it is a directory");
}

#[tokio::test]
async fn a_refusal_names_the_disk_its_holder_and_what_helps() {
    let fixture = with_polkit("").await;
    let (mine, disk) = (fixture.raw_of(NOBODY, "mine"), fixture.raw_of(ROOT, "disk"));
    let root = fixture.connection().await;
    let db1 = TestVm::open(&root, "db1").await;
    db1.acquire(&[exclusive(&disk)]).await.unwrap();
    let bus = fixture.connection_as(NOBODY).await;
    let web1 = TestVm::open(&bus, "web1").await;
    let name = disk.to_str().unwrap();

    let refused = web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_refused(&refused, INTERACTIVE, &format!("cannot lock disk {name} by name: "));
    assert_refused(&refused, INTERACTIVE, "pass a descriptor that is open for reading and");
    let held = format!("; disk {name} is locked exclusively by VM \"db1\" (");
    assert_refused(&refused, INTERACTIVE, &held);
    let refused: Refused = manager(&bus).await.resolve(name, none()).await.unwrap_err().into();
    assert_refused(&refused, INTERACTIVE, &format!("cannot look up disk {name} by name: "));
    // An unlocked disk has no holder.
    let refused = web1.acquire(&[exclusive(&mine)]).await.unwrap_err();
    assert!(!refused.message.contains("is locked"), "{refused:?}");

    // By a descriptor that proves too little.
    fs::set_permissions(&disk, Permissions::from_mode(0o644)).unwrap();
    let file = File::open(&disk).unwrap();
    let refused = web1.acquire_files(&[(&file, "exclusive")]).await.unwrap_err();
    assert_refused(&refused, INTERACTIVE, &held);

    let taken = crate::dbus_client::owner(&bus, db1.path()).await.close(none()).await;
    let refused: Refused = taken.unwrap_err().into();
    let words = format!("cannot release disk {name} of VM db1 of uid 0: ");
    assert_refused(&refused, INTERACTIVE, &words);
    assert_refused(&refused, INTERACTIVE, "ask the user of that VM, or");
}
