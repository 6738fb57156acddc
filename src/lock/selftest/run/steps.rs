//! The steps of a self-test.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::scratch::{Scratch, ScratchDirectory};
use super::{Line, Outcome, Step};
use crate::lock::model::mode::Mode;
use crate::lock::ofd;
use crate::lock::selftest::run::peer::{Peer, PeerCommand};

const ALONE: Mode = Mode::Exclusive;
const SHARED: Mode = Mode::Shared;

/// Why a step did not pass.
enum StepError {
    Wrong(&'static str),
    NoLocks(Errno),
    Failed(Errno),
}

impl From<Errno> for StepError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl StepError {
    /// Returns the trouble for an error of a lock operation.
    fn of_lock(errno: Errno) -> Self {
        match errno {
            Errno::NOLCK
            | Errno::NOSYS
            | Errno::OPNOTSUPP
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::BADF => Self::NoLocks(errno),
            errno => Self::Failed(errno),
        }
    }
}

type StepResult = Result<(), StepError>;
type Attempt = fn(&Scratch<'_>) -> StepResult;

/// Performs all steps in a directory, and reports each line as soon as it is known.
pub(super) fn try_all(directory: &Path, mut tell: impl FnMut(&Line)) {
    // An error of one of the first steps is reported; the others depend on it and are skipped.
    let _ = try_in(directory, &mut tell);
    tell(&Line::End);
}

/// The error of a step on which all others depend.
struct Ended;

fn try_in(directory: &Path, tell: &mut impl FnMut(&Line)) -> Result<(), Ended> {
    let place = first(Step::Open, ScratchDirectory::open(directory), tell)?;
    if let (Ok(stat), Some(mount)) = (place.stat(), place.mount()) {
        tell(&Line::There(stat.st_dev, stat.st_ino, mount));
    }
    let (mut scratch, owner) = first(Step::Make, Scratch::make(&place), tell)?;
    tell(&Line::Made(owner));
    if let Ok(Some(kept)) = kept(&scratch) {
        tell(&Line::Kept(kept));
    }
    let steps: [(Step, Attempt); 5] = [
        (Step::Files, files),
        (Step::Processes, processes),
        (Step::Kinds, kinds),
        (Step::Free, free),
        (Step::Change, change),
    ];
    for (step, attempt) in steps {
        tell(&Line::Done(step, attempt(&scratch).into()));
    }
    tell(&Line::Done(Step::Names, names(&place, &mut scratch).into()));
    tell(&Line::Done(Step::Remove, scratch.remove().map_err(StepError::from).into()));
    Ok(())
}

fn first<T>(step: Step, got: Result<T, Errno>, tell: &mut impl FnMut(&Line)) -> Result<T, Ended> {
    let tried: StepResult = got.as_ref().map(drop).map_err(|errno| (*errno).into());
    tell(&Line::Done(step, tried.into()));
    got.map_err(|_| Ended)
}

impl From<StepResult> for Outcome {
    fn from(tried: StepResult) -> Self {
        match tried {
            Ok(()) => Outcome::Passed,
            Err(StepError::Wrong(how)) => Outcome::Wrong(how.to_owned()),
            Err(StepError::NoLocks(errno)) => Outcome::NoLocks(errno),
            Err(StepError::Failed(errno)) => Outcome::Failed(errno),
        }
    }
}

/// Checks that a lock was granted.
fn got(locked: Result<bool, Errno>, how: &'static str) -> StepResult {
    if locked.map_err(StepError::of_lock)? { Ok(()) } else { Err(StepError::Wrong(how)) }
}

/// Checks that a lock was refused.
fn refused(locked: Result<bool, Errno>, how: &'static str) -> StepResult {
    if locked.map_err(StepError::of_lock)? { Err(StepError::Wrong(how)) } else { Ok(()) }
}

/// How long a server may take to process that a file was closed.
const SETTLES: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(20);

/// Checks that a released lock can be acquired. Only this process waits for that.
fn freed(mut lock: impl FnMut() -> Result<bool, Errno>, how: &'static str) -> StepResult {
    let until = Instant::now() + SETTLES;
    loop {
        let locked = lock().map_err(StepError::of_lock)?;
        if locked || Instant::now() >= until {
            return got(Ok(locked), how);
        }
        thread::sleep(AGAIN);
    }
}

/// Returns whether the kernel lists a lock on the file as its own, in `proc_pid_fdinfo(5)`; `None`
/// if that cannot be read or no lock was granted.
fn kept(scratch: &Scratch<'_>) -> Result<Option<bool>, Errno> {
    let file = scratch.open()?;
    if !ofd::try_lock(&file, ALONE)? {
        return Ok(None);
    }
    let description = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    Ok(description.ok().map(|text| text.lines().any(|line| line.starts_with("lock:"))))
}

const NOT_FREE: &str = "a lock that is not held is refused";
const NOT_FREED: &str = "a lock that was released is refused";

fn files(scratch: &Scratch<'_>) -> StepResult {
    const BOTH: &str = "two descriptors in one process both acquired the lock on a file";
    let (a, b) = (scratch.open()?, scratch.open()?);
    got(ofd::try_lock(&a, ALONE), NOT_FREE)?;
    refused(ofd::try_lock(&b, ALONE), BOTH)?;
    refused(ofd::try_lock(&b, SHARED), BOTH)?;
    let seen = ofd::in_the_way(&b, SHARED).map_err(StepError::of_lock)?;
    got(Ok(seen.is_some()), "a conflicting lock is not reported by F_OFD_GETLK")
}

fn processes(scratch: &Scratch<'_>) -> StepResult {
    const BOTH: &str = "two processes both acquired the lock on a file";
    let (a, mut peer) = (scratch.open()?, start(scratch)?);
    got(ofd::try_lock(&a, ALONE), NOT_FREE)?;
    refused(peer.ask(PeerCommand::Own(ALONE)), BOTH)?;
    refused(peer.ask(PeerCommand::Own(SHARED)), BOTH)?;
    ofd::unlock(&a).map_err(StepError::of_lock)?;
    freed(|| peer.ask(PeerCommand::Own(ALONE)), NOT_FREED)?;
    refused(ofd::try_lock(&a, ALONE), BOTH)?;
    refused(ofd::try_lock(&a, SHARED), BOTH)?;
    peer.ask(PeerCommand::Close)?;
    freed(|| peer.ask(PeerCommand::Own(SHARED)), NOT_FREED)?;
    got(ofd::try_lock(&a, SHARED), "two processes cannot share a lock")
}

fn kinds(scratch: &Scratch<'_>) -> StepResult {
    const BOTH: &str =
        "a process acquired a POSIX lock, and another one an OFD lock on the same file";
    let (a, mut peer) = (scratch.open()?, start(scratch)?);
    got(ofd::try_lock(&a, ALONE), NOT_FREE)?;
    refused(peer.ask(PeerCommand::Posix), BOTH)?;
    ofd::unlock(&a).map_err(StepError::of_lock)?;
    freed(|| peer.ask(PeerCommand::Posix), NOT_FREED)?;
    refused(ofd::try_lock(&a, ALONE), BOTH)?;
    refused(ofd::try_lock(&a, SHARED), BOTH)?;
    peer.ask(PeerCommand::Close)?;
    freed(|| ofd::try_lock(&a, ALONE), NOT_FREED)
}

fn free(scratch: &Scratch<'_>) -> StepResult {
    let (a, b) = (scratch.open()?, scratch.open()?);
    got(ofd::try_lock(&a, ALONE), NOT_FREE)?;
    drop(scratch.open()?);
    drop(a.try_clone().map_err(|_| Errno::MFILE)?);
    let lost = "a lock was lost because another descriptor of the file was closed";
    refused(ofd::try_lock(&b, ALONE), lost)?;
    ofd::unlock(&a).map_err(StepError::of_lock)?;
    freed(|| ofd::try_lock(&b, ALONE), NOT_FREED)?;
    refused(ofd::try_lock(&a, ALONE), "a lock that was released once is granted twice")?;
    drop(b);
    freed(|| ofd::try_lock(&a, ALONE), "a lock is not released when its file is closed")
}

fn change(scratch: &Scratch<'_>) -> StepResult {
    let (a, b) = (scratch.open()?, scratch.open()?);
    got(ofd::try_lock(&a, SHARED), NOT_FREE)?;
    got(ofd::try_lock(&b, SHARED), "a lock cannot be shared")?;
    refused(ofd::try_lock(&a, ALONE), "a shared lock was upgraded beside another shared lock")?;
    refused(ofd::try_lock(&b, ALONE), "a shared lock was lost when its upgrade was refused")?;
    ofd::unlock(&b).map_err(StepError::of_lock)?;
    freed(|| ofd::try_lock(&a, ALONE), "a shared lock cannot be upgraded")?;
    refused(ofd::try_lock(&b, SHARED), "an upgraded lock is shared")?;
    got(ofd::try_lock(&a, SHARED), "an exclusive lock cannot be downgraded")?;
    got(ofd::try_lock(&b, SHARED), "a downgraded lock is exclusive")
}

fn names(place: &ScratchDirectory, scratch: &mut Scratch<'_>) -> StepResult {
    let file = scratch.open()?;
    let told = |names: Result<bool, Errno>, right, how| match names {
        Ok(names) if names == right => Ok(()),
        Ok(_) => Err(StepError::Wrong(how)),
        Err(errno) => Err(errno.into()),
    };
    told(
        scratch.names(&file),
        true,
        "a name leads to another file than the one that was opened by it",
    )?;
    let (other, _) = Scratch::make(place)?;
    other.replace(scratch)?;
    told(scratch.names(&file), false, "a replaced file is not detected")
}

fn start(scratch: &Scratch<'_>) -> Result<Peer, Errno> {
    let started = Peer::start(&scratch.path());
    started.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
}
