//! No disk is locked twice, under whatever name, and a refusal says who holds it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::dbus_client::{TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::{Fixture, ForeignHolder, LockType, run, within};

/// Starts a fixture whose lock files have hashed names in one directory.
async fn hashed_fixture() -> Fixture {
    let fixture = Fixture::builder().folder("locks");
    fixture.config("file_lockspace_dir = \"@DIR@/locks\"").start().await
}

fn lock_files(fixture: &Fixture) -> Vec<String> {
    let files = fs::read_dir(fixture.dir().join("locks")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

async fn sha256(path: &Path) -> String {
    let mut sum = tokio::process::Command::new("sh");
    sum.args(["-c", "printf %s \"$1\" | sha256sum", "sh"]).arg(path);
    let sum = run(sum).await.ok();
    sum.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_second_vm_is_refused_and_the_refusal_names_the_holder() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let web1 = TestVm::open(&bus, "web1").await;
    web1.owner.bind_pid(std::process::id(), HashMap::new()).await.unwrap();
    let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();

    let link = fixture.dir().join("link.qcow2");
    fs::hard_link(&image, &link).unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    for (path, through) in
        [(&image, String::new()), (&link, format!(", through {}", image.display()))]
    {
        let refused = web2.acquire(&[shared(path)]).await.unwrap_err();
        assert_eq!(refused.name, "LockHeld");
        let (uuid, pid) = (web1.owner.uuid().await.unwrap(), std::process::id());
        let begins = format!(
            "disk {} is locked exclusively by VM \"web1\" ({uuid}, pid {pid}, user root) since ",
            path.display()
        );
        assert!(refused.message.starts_with(&begins), "{}", refused.message);
        assert!(refused.message.ends_with(&through), "{}", refused.message);
    }
    assert_eq!(web2.locks().await, []);
    web1.release(&locks).await.unwrap();
    web2.acquire(&[exclusive(&link)]).await.unwrap();
}

#[tokio::test]
async fn every_other_name_of_a_disk_is_the_same_disk() {
    for fixture in [Fixture::builder().start().await, hashed_fixture().await] {
        let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
        let dir = fixture.dir();
        let (hard, soft) = (dir.join("hard"), dir.join("soft"));
        fs::hard_link(&image, &hard).unwrap();
        symlink(&image, &soft).unwrap();
        let bound = dir.join("bound");
        fs::create_dir(&bound).unwrap();
        let bind = mount(Some(dir), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        bind.unwrap();
        let name = dir.file_name().unwrap().to_str().unwrap();
        let aliases = [
            hard,
            soft,
            bound.join("a.qcow2"),
            dir.join("..").join(name).join("a.qcow2"),
            PathBuf::from(format!("{}//./a.qcow2", dir.display())),
        ];
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        for alias in &aliases {
            for (first, second) in [(&image, alias), (alias, &image)] {
                let locks = web1.acquire(&[exclusive(first)]).await.unwrap();
                let refused = web2.acquire(&[exclusive(second)]).await.unwrap_err();
                assert_eq!(refused.name, "LockHeld", "{}: {refused:?}", alias.display());
                let through = format!("through {}", first.display());
                assert!(refused.message.contains(&through), "{refused:?}");
                // For its holder, it is the lock that it has already.
                assert_eq!(web1.acquire(&[exclusive(second)]).await.unwrap(), locks);
                web1.release(&locks).await.unwrap();
            }
        }
        umount(&bound).unwrap();
    }
}

#[tokio::test]
async fn all_or_nothing_in_the_order_of_the_request() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let mut images = Vec::new();
    for n in 0..4 {
        images.push(fixture.image(&format!("{n}.qcow2")).await);
    }
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web2.acquire(&[exclusive(&images[2])]).await.unwrap();
    let all: Vec<_> = images.iter().map(|image| exclusive(image)).collect();
    assert_eq!(web1.acquire(&all).await.unwrap_err().name, "LockHeld");
    // Neither the table nor the kernel kept anything of it.
    assert_eq!(web1.locks().await, []);
    ForeignHolder::try_once(&images[0], LockType::Ofd, true).unwrap();
    // A foreign holder in the middle: the locks before it are released.
    let foreign_holder = ForeignHolder::hold(&images[1], LockType::Ofd, true).unwrap();
    let disk_request = [exclusive(&images[0]), exclusive(&images[1])];
    assert_eq!(web1.acquire(&disk_request).await.unwrap_err().name, "LockHeldElsewhere");
    ForeignHolder::try_once(&images[0], LockType::Ofd, true).unwrap();
    drop(foreign_holder);

    let disk_request = [exclusive(&images[3]), shared(&images[0]), exclusive(&images[3])];
    let locks = web1.acquire(&disk_request).await.unwrap();
    assert_eq!((locks.len(), &locks[0]), (3, &locks[2]));
    for (path, (resource, mode)) in locks.iter().zip(disk_request) {
        let lock = lock(&bus, path).await;
        assert_eq!(lock.resource().await.unwrap(), resource);
        assert_eq!(lock.mode().await.unwrap(), mode);
    }
}

#[tokio::test]
async fn shared_locks_conversion_and_repeated_requests() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("iso").await);
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let mine = web1.acquire(&[shared(&image)]).await.unwrap();
    let other = web2.acquire(&[shared(&image)]).await.unwrap();
    assert_ne!(mine, other);
    assert_eq!(web1.acquire(&[shared(&image)]).await.unwrap(), mine);
    let refused = web1.acquire(&[exclusive(&image)]).await.unwrap_err();
    assert_eq!(refused.name, "DBus.Error.InvalidArgs");
    assert!(refused.message.contains("convert"), "{refused:?}");
    let both = web1.acquire(&[shared(&fixture.image("b").await), ("/dev/null", "exclusive")]).await;
    assert_eq!(both.unwrap_err().name, "NotLockable");

    let lock = lock(&bus, &mine[0]).await;
    let convert = async |mode| {
        lock.convert(mode, HashMap::new()).await.map_err(crate::dbus_client::Refused::from)
    };
    let refused = convert("exclusive").await.unwrap_err();
    assert_eq!(refused.name, "LockHeld");
    assert!(refused.message.contains("locked in shared mode by VM \"web2\""), "{refused:?}");
    web2.release(&other).await.unwrap();
    convert("exclusive").await.unwrap();
    assert_eq!(lock.mode().await.unwrap(), "exclusive");
    ForeignHolder::try_once(&image, LockType::Ofd, false).unwrap_err();
    assert_eq!(web2.acquire(&[shared(&image)]).await.unwrap_err().name, "LockHeld");
    convert("shared").await.unwrap();
    ForeignHolder::try_once(&image, LockType::Ofd, false).unwrap();
    web2.acquire(&[shared(&image)]).await.unwrap();
    // A foreign reader conflicts with a writer.
    web2.owner.close(HashMap::new()).await.unwrap();
    let foreign_holder = ForeignHolder::hold(&image, LockType::Posix, false).unwrap();
    let refused = convert("exclusive").await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere");
    assert!(refused.message.contains(&format!("pid {}", foreign_holder.pid())), "{refused:?}");
    assert_eq!(lock.mode().await.unwrap(), "shared");
}

#[tokio::test]
async fn the_same_disk_in_two_modes_is_no_request() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let soft = fixture.dir().join("soft");
    symlink(&image, &soft).unwrap();
    let web1 = TestVm::open(&bus, "web1").await;
    let refused = web1.acquire(&[shared(&image), exclusive(&soft)]).await.unwrap_err();
    assert_eq!(refused.name, "DBus.Error.InvalidArgs");
    assert_eq!(web1.locks().await, []);
}

#[tokio::test]
async fn lock_files_are_libvirts_and_do_not_stay() {
    let fixture = hashed_fixture().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let soft = fixture.dir().join("soft");
    symlink(&image, &soft).unwrap();
    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();
    assert_eq!(lock_files(&fixture), [sha256(&image).await]);
    let file = fixture.dir().join("locks").join(sha256(&image).await);
    let seen = fs::metadata(&file).unwrap();
    assert_eq!((seen.len(), seen.mode() & 0o7777), (0, 0o600));
    assert_eq!(lock(&bus, &locks[0]).await.lock_file().await.unwrap(), file.to_str().unwrap());
    // virtlockd on another host would meet us on that byte; the disk itself is left alone.
    ForeignHolder::try_once(&file, LockType::Posix, true).unwrap_err();
    ForeignHolder::try_once(&image, LockType::Ofd, true).unwrap();
    web1.release(&locks).await.unwrap();
    assert_eq!(lock_files(&fixture), [""; 0]);

    // By a link both names are locked, so that either meets us on another host.
    let locks = web1.acquire(&[shared(&soft)]).await.unwrap();
    let mut both = [sha256(&image).await, sha256(&soft).await];
    let mut files = lock_files(&fixture);
    both.sort();
    files.sort();
    assert_eq!(files, both);
    // A shared holder of one of them keeps its file from being removed.
    let sharer =
        ForeignHolder::hold(fixture.dir().join("locks").join(&both[0]), LockType::Ofd, false)
            .unwrap();
    web1.release(&locks).await.unwrap();
    assert_eq!(lock_files(&fixture), both[..1]);
    drop(sharer);
}

#[tokio::test]
async fn a_hashed_lock_conflicts_with_a_direct_holder_and_a_foreign_one() {
    let fixture = hashed_fixture().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let web1 = TestVm::open(&bus, "web1").await;
    let direct = ForeignHolder::hold(&image, LockType::Ofd, true).unwrap();
    let refused = web1.acquire(&[exclusive(&image)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere");
    assert!(refused.message.contains(&format!("pid {}", direct.pid())), "{refused:?}");
    assert_eq!(lock_files(&fixture), [""; 0], "a refusal leaves no file");
    drop(direct);

    let file = fixture.dir().join("locks").join(sha256(&image).await);
    File::create(&file).unwrap();
    let foreign_holder = ForeignHolder::hold(&file, LockType::Posix, true).unwrap();
    let refused = web1.acquire(&[exclusive(&image)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere");
    let said =
        format!("pid {}, user root), through lock file {}", foreign_holder.pid(), file.display());
    assert!(refused.message.ends_with(&said), "{refused:?}");
}

#[tokio::test]
async fn a_foreign_holder_and_the_service_exclude_each_other() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let web1 = TestVm::open(&bus, "web1").await;
    for kind in [LockType::Posix, LockType::Ofd] {
        let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();
        for exclusive in [true, false] {
            ForeignHolder::try_once(&image, kind, exclusive).unwrap_err();
        }
        web1.release(&locks).await.unwrap();
        ForeignHolder::try_once(&image, kind, true).unwrap();
        let foreign_holder = ForeignHolder::hold(&image, kind, true).unwrap();
        let refused = web1.acquire(&[shared(&image)]).await.unwrap_err();
        assert_eq!(refused.name, "LockHeldElsewhere");
        assert!(
            refused.message.contains(&format!(", pid {}, user root)", foreign_holder.pid())),
            "{refused:?}"
        );
        let row = &manager(&bus)
            .await
            .find_holders(image.to_str().unwrap(), HashMap::new())
            .await
            .unwrap()[0];
        assert_eq!(u32::try_from(&row["pid"]).unwrap(), foreign_holder.pid());
        assert_eq!(<&str>::try_from(&row["kind"]).unwrap(), "process");
    }
}

#[tokio::test]
async fn a_foreign_holder_is_named_where_files_have_another_device_number() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let dir = fixture.dir();
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        let path = dir.join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    // A file system of its own below, or the files would have the overlay's device.
    mount(Some("none"), &lower, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(lower.join("disk"), "").unwrap();
    let (lower_dir, upper, work) = (lower.display(), upper.display(), work.display());
    let options = format!("lowerdir={lower_dir},upperdir={upper},workdir={work}");
    let overlay = Some(options.as_str());
    mount(Some("none"), &merged, Some("overlay"), MsFlags::empty(), overlay).unwrap();
    let disk = merged.join("disk");
    let foreign_holder = ForeignHolder::hold(&disk, LockType::Ofd, true).unwrap();
    let web1 = TestVm::open(&bus, "web1").await;
    let refused = web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
    let pid = foreign_holder.pid();
    drop(foreign_holder);
    umount(&merged).unwrap();
    umount(&lower).unwrap();
    assert_eq!(refused.name, "LockHeldElsewhere");
    assert!(refused.message.contains(&format!("pid {pid}")), "{refused:?}");
}

#[tokio::test]
async fn signals_and_properties_precede_the_reply() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let watcher = fixture.connection().await;
    let seen = manager(&watcher).await;
    let mut acquired = seen.receive_lock_acquired().await.unwrap();
    let mut released = seen.receive_lock_released().await.unwrap();
    let mut contended = seen.receive_lock_contended().await.unwrap();

    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();
    // The object is there when the answer is.
    assert_eq!(lock(&bus, &locks[0]).await.owner().await.unwrap(), web1.path());
    let told = within("the signal", acquired.next()).await.unwrap();
    let told = told.args().unwrap();
    assert_eq!((told.lock(), told.owner()), (&locks[0], &web1.path()));
    assert_eq!(
        (told.resource().as_str(), told.mode().as_str()),
        (image.to_str().unwrap(), "exclusive")
    );

    let web2 =
        TestVm::open_with(&bus, "", "web2", option("resources", vec![exclusive(&image)])).await;
    assert_eq!(web2.unwrap_err().name, "LockHeld");
    assert_eq!(seen.n_owners().await.unwrap(), 1, "an owner whose disks are refused is not opened");
    let told = within("the signal", contended.next()).await.unwrap();
    assert_eq!(told.args().unwrap().holders(), &[web1.path()]);

    let gone = lock(&bus, &locks[0]).await;
    gone.release(HashMap::new()).await.unwrap();
    let told = within("the signal", released.next()).await.unwrap();
    assert_eq!(told.args().unwrap().reason(), "released");
    assert!(gone.mode().await.is_err(), "the object is gone when the answer is there");
}

#[tokio::test]
async fn a_disk_that_was_replaced_is_another_disk() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    let old = fixture.dir().join("old.qcow2");
    fs::rename(&image, &old).unwrap();
    fixture.image("a.qcow2").await;
    let web2 = TestVm::open(&bus, "web2").await;
    assert_eq!(web2.acquire(&[exclusive(&old)]).await.unwrap_err().name, "LockHeld");
    web2.acquire(&[exclusive(&image)]).await.unwrap();
}

#[tokio::test]
async fn other_lock_files_after_a_reload_and_held_locks_stay_where_they_are() {
    let fixture = Fixture::builder().folder("locks").start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a.qcow2").await);
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let direct = web1.acquire(&[exclusive(&image)]).await.unwrap();
    let manager = manager(&bus).await;
    fixture.configure("file_lockspace_dir = \"@DIR@/locks\"");
    manager.reload(HashMap::new()).await.unwrap();
    assert_eq!(lock(&bus, &direct[0]).await.lock_file().await.unwrap(), image.to_str().unwrap());
    assert_eq!(web2.acquire(&[exclusive(&image)]).await.unwrap_err().name, "LockHeld");
    let hashed = web2.acquire(&[exclusive(&fixture.image("b.qcow2").await)]).await.unwrap();
    let place = lock(&bus, &hashed[0]).await.lockspace().await.unwrap();
    assert_eq!(place.as_str(), "/org/vmlockd1/lockspace/file");
    // A file that can't be used changes nothing.
    fixture.configure("file_lockspace_dri = \"/x\"");
    let refused = manager.reload(HashMap::new()).await.unwrap_err().to_string();
    assert!(refused.contains("did you mean 'file_lockspace_dir'?"), "{refused}");
    assert_eq!(lock_files(&fixture).len(), 1);
    web2.release(&hashed).await.unwrap();
    web2.acquire(&[exclusive(&fixture.image("c.qcow2").await)]).await.unwrap();
    assert_eq!(lock_files(&fixture).len(), 1);
}

/// A block device, which only root can create.
mod host {
    use super::*;

    #[tokio::test]
    async fn a_second_node_of_a_block_device_is_the_same_disk() {
        let fixture = Fixture::builder().start().await;
        let bus = fixture.connection().await;
        let raw = fixture.raw_of(0, "disk.raw");
        let mut attach = tokio::process::Command::new("losetup");
        attach.args(["--find", "--show"]).arg(&raw);
        let node = PathBuf::from(run(attach).await.ok().trim());
        let second = fixture.dir().join("second-node");
        let device = fs::metadata(&node).unwrap().rdev();
        mknod(&second, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device).unwrap();

        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        let locks = web1.acquire(&[exclusive(&node)]).await.unwrap();
        let refused = web2.acquire(&[exclusive(&second)]).await.unwrap_err();
        let identity = lock(&bus, &locks[0]).await.identity().await.unwrap();
        drop((web1, web2));
        let mut detach = tokio::process::Command::new("losetup");
        detach.arg("--detach").arg(&node);
        run(detach).await.ok();
        assert_eq!(refused.name, "LockHeld");
        assert!(refused.message.contains(&format!("through {}", node.display())), "{refused:?}");
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        assert!(identity.starts_with(&format!("block:{major}:{minor}:")), "{identity}");
    }
}
