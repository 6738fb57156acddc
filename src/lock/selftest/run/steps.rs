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

const EXCLUSIVE: Mode = Mode::Exclusive;
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
pub(super) fn try_all(directory: &Path, mut report: impl FnMut(&Line)) {
    // An error of one of the first steps is reported; the others depend on it and are skipped.
    let _ = try_in(directory, &mut report);
    report(&Line::End);
}

/// The error of a step on which all others depend.
struct Ended;

fn try_in(directory: &Path, report: &mut impl FnMut(&Line)) -> Result<(), Ended> {
    let directory = report_first(Step::Open, ScratchDirectory::open(directory), report)?;
    if let (Ok(stat), Some(mount)) = (directory.stat(), directory.mount()) {
        report(&Line::Directory(stat.st_dev, stat.st_ino, mount));
    }
    let (mut scratch, owner) = report_first(Step::Make, Scratch::make(&directory), report)?;
    report(&Line::Created(owner));
    if let Ok(Some(kept)) = is_kept_by_kernel(&scratch) {
        report(&Line::KeptByKernel(kept));
    }
    let steps: [(Step, Attempt); 5] = [
        (Step::Files, files),
        (Step::Processes, processes),
        (Step::Kinds, kinds),
        (Step::Free, free),
        (Step::Change, change),
    ];
    for (step, attempt) in steps {
        report(&Line::Done(step, attempt(&scratch).into()));
    }
    report(&Line::Done(Step::Names, names(&directory, &mut scratch).into()));
    report(&Line::Done(Step::Remove, scratch.remove().map_err(StepError::from).into()));
    Ok(())
}

fn report_first<T>(
    step: Step,
    result: Result<T, Errno>,
    report: &mut impl FnMut(&Line),
) -> Result<T, Ended> {
    let tried: StepResult = result.as_ref().map(drop).map_err(|errno| (*errno).into());
    report(&Line::Done(step, tried.into()));
    result.map_err(|_| Ended)
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
fn expect_granted(locked: Result<bool, Errno>, how: &'static str) -> StepResult {
    if locked.map_err(StepError::of_lock)? { Ok(()) } else { Err(StepError::Wrong(how)) }
}

/// Checks that a lock was refused.
fn expect_refused(locked: Result<bool, Errno>, how: &'static str) -> StepResult {
    if locked.map_err(StepError::of_lock)? { Err(StepError::Wrong(how)) } else { Ok(()) }
}

/// How long a server may take to process that a file was closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Checks that a released lock can be acquired. Only this process waits for that.
fn expect_released(mut lock: impl FnMut() -> Result<bool, Errno>, how: &'static str) -> StepResult {
    let until = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let locked = lock().map_err(StepError::of_lock)?;
        if locked || Instant::now() >= until {
            return expect_granted(Ok(locked), how);
        }
        thread::sleep(RETRY_DELAY);
    }
}

/// Returns whether the kernel lists a lock on the file as its own, in `proc_pid_fdinfo(5)`; `None`
/// if that cannot be read or no lock was granted.
fn is_kept_by_kernel(scratch: &Scratch<'_>) -> Result<Option<bool>, Errno> {
    let file = scratch.open()?;
    if !ofd::try_lock(&file, EXCLUSIVE)? {
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
    expect_granted(ofd::try_lock(&a, EXCLUSIVE), NOT_FREE)?;
    expect_refused(ofd::try_lock(&b, EXCLUSIVE), BOTH)?;
    expect_refused(ofd::try_lock(&b, SHARED), BOTH)?;
    let seen = ofd::conflicting_lock(&b, SHARED).map_err(StepError::of_lock)?;
    expect_granted(Ok(seen.is_some()), "a conflicting lock is not reported by F_OFD_GETLK")
}

fn processes(scratch: &Scratch<'_>) -> StepResult {
    const BOTH: &str = "two processes both acquired the lock on a file";
    let (a, mut peer) = (scratch.open()?, start(scratch)?);
    expect_granted(ofd::try_lock(&a, EXCLUSIVE), NOT_FREE)?;
    expect_refused(peer.send(PeerCommand::Own(EXCLUSIVE)), BOTH)?;
    expect_refused(peer.send(PeerCommand::Own(SHARED)), BOTH)?;
    ofd::unlock(&a).map_err(StepError::of_lock)?;
    expect_released(|| peer.send(PeerCommand::Own(EXCLUSIVE)), NOT_FREED)?;
    expect_refused(ofd::try_lock(&a, EXCLUSIVE), BOTH)?;
    expect_refused(ofd::try_lock(&a, SHARED), BOTH)?;
    peer.send(PeerCommand::Close)?;
    expect_released(|| peer.send(PeerCommand::Own(SHARED)), NOT_FREED)?;
    expect_granted(ofd::try_lock(&a, SHARED), "two processes cannot share a lock")
}

fn kinds(scratch: &Scratch<'_>) -> StepResult {
    const BOTH: &str =
        "a process acquired a POSIX lock, and another one an OFD lock on the same file";
    let (a, mut peer) = (scratch.open()?, start(scratch)?);
    expect_granted(ofd::try_lock(&a, EXCLUSIVE), NOT_FREE)?;
    expect_refused(peer.send(PeerCommand::Posix), BOTH)?;
    ofd::unlock(&a).map_err(StepError::of_lock)?;
    expect_released(|| peer.send(PeerCommand::Posix), NOT_FREED)?;
    expect_refused(ofd::try_lock(&a, EXCLUSIVE), BOTH)?;
    expect_refused(ofd::try_lock(&a, SHARED), BOTH)?;
    peer.send(PeerCommand::Close)?;
    expect_released(|| ofd::try_lock(&a, EXCLUSIVE), NOT_FREED)
}

fn free(scratch: &Scratch<'_>) -> StepResult {
    let (a, b) = (scratch.open()?, scratch.open()?);
    expect_granted(ofd::try_lock(&a, EXCLUSIVE), NOT_FREE)?;
    drop(scratch.open()?);
    drop(a.try_clone().map_err(|_| Errno::MFILE)?);
    let lost = "a lock was lost because another descriptor of the file was closed";
    expect_refused(ofd::try_lock(&b, EXCLUSIVE), lost)?;
    ofd::unlock(&a).map_err(StepError::of_lock)?;
    expect_released(|| ofd::try_lock(&b, EXCLUSIVE), NOT_FREED)?;
    expect_refused(ofd::try_lock(&a, EXCLUSIVE), "a lock that was released once is granted twice")?;
    drop(b);
    expect_released(
        || ofd::try_lock(&a, EXCLUSIVE),
        "a lock is not released when its file is closed",
    )
}

fn change(scratch: &Scratch<'_>) -> StepResult {
    let (a, b) = (scratch.open()?, scratch.open()?);
    expect_granted(ofd::try_lock(&a, SHARED), NOT_FREE)?;
    expect_granted(ofd::try_lock(&b, SHARED), "a lock cannot be shared")?;
    expect_refused(
        ofd::try_lock(&a, EXCLUSIVE),
        "a shared lock was upgraded beside another shared lock",
    )?;
    expect_refused(
        ofd::try_lock(&b, EXCLUSIVE),
        "a shared lock was lost when its upgrade was refused",
    )?;
    ofd::unlock(&b).map_err(StepError::of_lock)?;
    expect_released(|| ofd::try_lock(&a, EXCLUSIVE), "a shared lock cannot be upgraded")?;
    expect_refused(ofd::try_lock(&b, SHARED), "an upgraded lock is shared")?;
    expect_granted(ofd::try_lock(&a, SHARED), "an exclusive lock cannot be downgraded")?;
    expect_granted(ofd::try_lock(&b, SHARED), "a downgraded lock is exclusive")
}

fn names(directory: &ScratchDirectory, scratch: &mut Scratch<'_>) -> StepResult {
    let file = scratch.open()?;
    let expect_names = |names: Result<bool, Errno>, right, how| match names {
        Ok(names) if names == right => Ok(()),
        Ok(_) => Err(StepError::Wrong(how)),
        Err(errno) => Err(errno.into()),
    };
    expect_names(
        scratch.names(&file),
        true,
        "a name leads to another file than the one that was opened by it",
    )?;
    let (other, _) = Scratch::make(directory)?;
    other.replace(scratch)?;
    expect_names(scratch.names(&file), false, "a replaced file is not detected")
}

fn start(scratch: &Scratch<'_>) -> Result<Peer, Errno> {
    let started = Peer::start(&scratch.path());
    started.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
}
