//! A descriptor of any kind delays only the user that passes it, and is closed again.

mod close;
mod hung_close;
mod private_mounts;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use zbus::Fd;

use crate::dbus_client::{TestVm, exclusive, manager, option};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, OtherMountNamespace, polkit, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_refused};
use crate::virtlockd::host::hung_mount::HungMount;

#[tokio::test]
async fn only_the_descriptor_of_a_process_is_taken_for_one() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (manager, machine) = (manager(&bus).await, TestVm::open(&bus, "web1").await);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    let stat = File::open("/proc/self/stat").unwrap();
    let mut wrong: Vec<(OwnedFd, &str)> =
        [epoll.0, inotify.as_fd().try_clone_to_owned().unwrap(), stat.into()]
            .into_iter()
            .map(|fd| (fd, "not a process descriptor (pidfd)"))
            .collect();
    // PIDFD_THREAD, since Linux 6.9.
    let me = Pid::from_raw(std::process::id().cast_signed()).unwrap();
    if let Ok(thread) = pidfd_open(me, PidfdFlags::from_bits_retain(0o200)) {
        wrong.push((thread, "that of a thread (PIDFD_THREAD), not of a process"));
    }
    let before = Untouched::so_far(&fixture).await;
    for (fd, words) in &wrong {
        let process = || option("process", Fd::from(fd.as_fd()));
        let refused = manager.open_owner("", "web2", process()).await.unwrap_err();
        assert_refused(&refused.into(), "DBus.Error.InvalidArgs", words);
        let refused = machine.owner.bind_process(Fd::from(fd.as_fd()), none()).await.unwrap_err();
        assert_refused(&refused.into(), "DBus.Error.InvalidArgs", words);
        before.still(words).await;
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn to_ask_who_holds_a_file_does_not_open_it_for_writing() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection_as(NOBODY).await;
    let disk = fixture.raw_of(0, "disk");
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    let file = File::open(&disk).unwrap();
    watch.add_watch(&disk, AddWatchFlags::IN_CLOSE_WRITE).unwrap();
    let manager = manager(&bus).await;
    let holders = manager.find_holders_of_file(Fd::from(&file), HashMap::new()).await.unwrap();
    assert_eq!(holders, []);
    assert_eq!(watch.read_events().unwrap_err(), Errno::EAGAIN, "it was opened for writing");
    drop(File::options().write(true).open(&disk).unwrap());
    assert_eq!(watch.read_events().unwrap().len(), 1);
}

#[tokio::test]
async fn a_name_is_looked_up_only_where_the_file_is() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let (mine, disk) = (fixture.raw_of(NOBODY, "mine"), fixture.raw_of(0, "disk"));
    let elsewhere =
        OtherMountNamespace::start(&far.disk(), &mine, &fixture.dir().join("elsewhere.log")).await;
    let file = elsewhere.open(&far.disk());
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(fs::read_link(name).unwrap(), far.disk());
    far.stop();
    let asker = manager(&user).await;
    for _ in 0..3 {
        let asked = asker.find_holders_of_file(Fd::from(&file), none());
        assert_eq!(within("an answer", asked).await.unwrap(), []);
    }
    let machine = TestVm::open(&user, "web1").await;
    let locks = within("an answer", machine.acquire_files(&[(&file, "exclusive")])).await.unwrap();
    let lock = crate::dbus_client::lock(&user, &locks[0]).await;
    assert!(lock.resource().await.unwrap().starts_with("fd:"));
    let (web2, silent) = (TestVm::open(&root, "web2").await, manager(&root).await);
    web2.acquire(&[exclusive(&disk)]).await.unwrap();
    // The other file system was not asked anything.
    let metrics = silent.get_metrics(none()).await.unwrap();
    assert_eq!(u64::try_from(&metrics["mounts-unresponsive"]).unwrap(), 0);
    assert_eq!(u64::try_from(&metrics["requests-hung"]).unwrap(), 0);
    far.go_on();
}
