//! Being somebody else for a while: threads and connections with another user's rights.

use std::{future::Future, panic, thread};

use nix::unistd::{Uid, User};
use rustix::{
    process::{Gid, Uid as ThreadUid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::{runtime::Builder, sync::oneshot};

/// Users that every distribution has.
pub(crate) const ROOT: u32 = 0;
pub(crate) const DAEMON: u32 = 1;
pub(crate) const GAMES: u32 = 5;
pub(crate) const NOBODY: u32 = 65534;

/// A user with his first group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Looks the user up; one whom nobody knows gets the group of the same number.
    pub(crate) fn of(uid: u32) -> Account {
        let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        Account { uid, gid: known.map_or(uid, |user| user.gid.as_raw()) }
    }

    /// Makes the calling thread, and no other, run as this user, without a way back.
    fn assume(self) {
        let (uid, gid) = (ThreadUid::from_raw(self.uid), Gid::from_raw(self.gid));
        // In this order: once the user has changed, the rest is no longer permitted.
        set_thread_groups(&[gid])
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .unwrap_or_else(|e| panic!("can't become user {}: {e} (run as root)", self.uid));
    }
}

/// Runs an async closure as the user `uid`, on a thread and a runtime of its own.
///
/// Credentials belong to threads in Linux, and a thread inherits those of the one that made it.
/// So all that the closure does happens with the user's rights, what it leaves to the runtime's
/// pool included. A connection made here ends with the closure, as it lives on this runtime; one
/// for the whole test comes from [`super::Bus::connection_as`].
pub(crate) async fn as_user<T, F>(uid: u32, act: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    in_thread(uid, move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(act())
    })
    .await
}

/// Runs a blocking closure as the user `uid`, on a thread of its own.
pub(crate) async fn in_thread<T: Send + 'static>(
    uid: u32,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    let account = Account::of(uid);
    let (done, outcome) = oneshot::channel();
    thread::spawn(move || {
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            if uid != ROOT {
                account.assume();
            }
            act()
        }));
        // Nobody listens any more if the test has given up meanwhile.
        let _ = done.send(result);
    });
    match outcome.await.expect("the thread always answers") {
        Ok(value) => value,
        // The test fails as if the closure had run in it.
        Err(panic) => panic::resume_unwind(panic),
    }
}
