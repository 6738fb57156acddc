//! Descriptors whose close hangs delay only the user that passes them, and are bounded.

use std::fs::File;
use std::path::Path;

use zbus::Fd;

use crate::host::skip;
use crate::house::user::{DAEMON, NOBODY};
use crate::house::{Answer, HangingClose, House, polkit, within};
use crate::machine::{Machine, exclusive, manager};
use crate::methods::none;
use crate::owners::releases;
use crate::untouched::assert_refused;

/// How many descriptors a message has at most on most buses.
const MESSAGE: usize = 16;
/// How many descriptors of one user may hang or wait to be closed.
const LIMIT: usize = 512;

/// Passes as many descriptors as one call may bring, in a call that does nothing with them.
/// Returns whether the call is refused because too many are not closed yet.
async fn is_over_limit(machine: &Machine, file: &File) -> bool {
    let files: Vec<File> = (0..MESSAGE).map(|_| file.try_clone().unwrap()).collect();
    let files: Vec<(&dyn crate::machine::AsFdDyn, &str)> =
        files.iter().map(|file| (file as _, "nonsense")).collect();
    let refused = within("an answer", machine.acquire_files(&files)).await.unwrap_err();
    let words =
        format!("descriptors that are not closed yet: no more than {LIMIT} for uid {NOBODY}");
    if refused.name == "DBus.Error.InvalidArgs" {
        return false;
    }
    assert_refused(&refused, "DBus.Error.LimitsExceeded", &words);
    true
}

#[tokio::test]
async fn descriptors_whose_close_hangs_delay_no_other_user_and_are_bounded() {
    if !Path::new("/dev/fuse").exists() {
        return skip("there is no /dev/fuse here").unwrap_or_default();
    }
    let house = House::builder().polkit(polkit::Choice::Mock).start().await;
    house.polkit().mock().answer(Answer::Allow);
    let daemon = house.daemon();
    let server = HangingClose::start(&house.dir().join("hanging"), daemon.pid()).await;
    let (root, user) = (house.connection().await, house.connection_as(NOBODY).await);
    let other = manager(&house.connection_as(DAEMON).await).await;
    let (disk, mine) = (house.raw_of(0, "disk"), house.raw_of(NOBODY, "mine"));
    let (web1, hostile) = (Machine::open(&root, "web1").await, Machine::open(&user, "web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let before = daemon.open_fds();

    let hanging = server.disk().unwrap();
    let mut passed = 0;
    while !is_over_limit(&hostile, &hanging).await {
        passed += MESSAGE;
        assert!(passed <= LIMIT, "no limit at {passed} descriptors");
    }
    assert!(passed > LIMIT - MESSAGE, "refused after {passed} descriptors");
    // The user is served, but for its descriptors.
    let mine = [exclusive(&mine)];
    let locks = within("a call without descriptors", hostile.acquire(&mine)).await.unwrap();
    hostile.release(&locks).await.unwrap();
    // All others are served, and their descriptors are closed.
    let observer = manager(&root).await;
    let mut released = releases(&observer).await;
    drop(web1);
    assert_eq!(released().await, "owner-gone");
    let web3 = Machine::open(&root, "web3").await;
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    within("root's descriptor", web3.acquire_files(&[(&file, "exclusive")])).await.unwrap();
    let (theirs, ours) = tokio::net::unix::pipe::pipe().unwrap();
    let asked = other.find_holders_of_file(Fd::from(&file), none());
    assert_eq!(within("another user's descriptor", asked).await.unwrap().len(), 1);
    let asked = other.find_holders_of_file(Fd::from(&theirs), none());
    within("another user's pipe", asked).await.unwrap_err();
    drop(theirs);
    within("the pipe is closed", ours.readable()).await.unwrap();
    assert_eq!(ours.try_read(&mut [0]).unwrap(), 0);

    server.kill();
    drop((web3, hanging));
    let closed = async {
        while daemon.open_fds() > before || is_over_limit(&hostile, &file).await {
            tokio::task::yield_now().await;
        }
    };
    within("all is closed", closed).await;
}
