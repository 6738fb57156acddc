//! The files of loop devices, as the kernel reports them (`LOOP_GET_STATUS64`, `loop(4)`).
//!
//! The name in `loop/backing_file` of `sysfs(5)` shows only where the file was once: it may have
//! been removed, renamed or mounted over since, and another file may have that name.
//!
//! To answer, the kernel queries the file system of the file, which may never respond. So a
//! subprocess that can be abandoned sends the query. Its answer is cached for as long as the device
//! is not set up again, which would change its disk sequence number.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, fstat, major, makedev, minor};
use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl};

use crate::lock::model::extent::{Extent, Span};
use crate::lock::model::identity::Identity;
use crate::lock::model::identity::{UNKNOWN_SEQUENCE, is_loop};
use crate::lock::path::open::{self, Links};
use crate::lock::path::subprocess::{self, parse_errno};
use crate::lock::sysfs::Sysfs;
use crate::lock::text::errno::errno_description;
use crate::sync;

/// How long the kernel may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a device that did not respond or refused the query is not queried again.
const FAILURE_TTL: Duration = Duration::from_secs(60);
/// How long a device that did not respond is not queried again if the answer decides whether a disk
/// is locked, unless the subprocess still hangs.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// The maximum number of devices that one subprocess queries, which bounds its output.
const BATCH: usize = 32;
/// `LOOP_GET_STATUS64` (`<linux/loop.h>`).
const GET_STATUS: rustix::ioctl::Opcode = 0x4C05;

/// The device and inode of the file that a loop device is set up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backing {
    dev: u64,
    ino: u64,
    /// The device number of a block device; otherwise 0.
    rdev: u64,
}

impl Backing {
    fn identity(self, sysfs: &Sysfs) -> Identity {
        match self.rdev {
            0 => Identity::Inode { dev: self.dev, ino: self.ino },
            rdev => Identity::device(rdev, sysfs),
        }
    }
}

/// Why the file that a loop device is set up on is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lock) enum Unknown {
    /// The file system of its file is not responding.
    Unresponsive,
    /// The device cannot be opened or queried.
    Refused(Errno),
    /// The subprocess could not be started, or printed nothing.
    NotQueried,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresponsive => f.write_str("the file system that it lies on is not responding"),
            Self::Refused(errno) => f.write_str(errno_description(*errno)),
            Self::NotQueried => f.write_str("cannot start a process that asks the kernel"),
        }
    }
}

type Answer = Result<Backing, Unknown>;

/// An answer, and the disk sequence number that the device had.
#[derive(Debug, Clone, Copy)]
struct CachedAnswer {
    seq: u64,
    answer: Answer,
    since: Instant,
}

/// The cache, by device number. It has at most one entry for each loop device of this host.
static CACHE: Mutex<BTreeMap<u64, CachedAnswer>> = Mutex::new(BTreeMap::new());

/// The devices with queries in progress, by device number, with the number of subprocesses.
static PENDING: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());

/// A subprocess that queries devices. Dropped when the subprocess has ended.
struct QueryGuard(Vec<u64>);

impl QueryGuard {
    fn begin(devices: &[(u64, u64)]) -> Self {
        let mut pending = sync::lock(&PENDING);
        for (dev, _) in devices {
            *pending.entry(*dev).or_default() += 1;
        }
        Self(devices.iter().map(|(dev, _)| *dev).collect())
    }
}

impl Drop for QueryGuard {
    fn drop(&mut self) {
        let mut pending = sync::lock(&PENDING);
        for dev in &self.0 {
            let left = pending.get_mut(dev).map_or(0, |count| {
                *count = count.saturating_sub(1);
                *count
            });
            if left == 0 {
                pending.remove(dev);
            }
        }
    }
}

fn is_pending(dev: u64) -> bool {
    sync::lock(&PENDING).contains_key(&dev)
}

/// Whether a device is a loop device that no file is set up on.
///
/// # Errors
///
/// Errors of reading sysfs.
pub(in crate::lock) fn is_unset(dev: u64, sysfs: &Sysfs) -> io::Result<bool> {
    let is_device = is_loop(dev) && sysfs.whole(dev)?.is_none();
    Ok(is_device && sysfs.loop_range(dev)?.is_none() && sysfs.size(dev)? == Some(0))
}

/// Returns the range of its file that a loop device occupies.
///
/// # Errors
///
/// [`Unknown`].
pub(in crate::lock) fn extent_of(dev: u64, sysfs: &Sysfs) -> Result<Extent, Unknown> {
    let seq = sysfs.disk_sequence(dev);
    let answer = match cached_answer(dev, seq, false) {
        Some(answer) => answer,
        None => query(&[(dev, seq)]).remove(&dev).unwrap_or(Err(Unknown::NotQueried)),
    };
    extent(dev, answer?.identity(sysfs), sysfs)
}

/// A loop device that is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lock) struct LoopDevice {
    /// Its device number.
    pub(in crate::lock) dev: u64,
    /// The identity of the device itself.
    pub(in crate::lock) identity: Identity,
    /// The file or device that it is set up on.
    pub(in crate::lock) backing: Identity,
}

/// Returns the loop devices of this host that are set up.
///
/// For a device that may not be queried or does not respond, the name that it was set up with is
/// used. If that leads to another file by now, it adds a use that does not exist, and hides none.
pub(in crate::lock) fn all(sysfs: &Sysfs) -> Vec<LoopDevice> {
    let (mut answers, mut uncached) = (Vec::new(), Vec::new());
    for dev in sysfs.loop_devices().unwrap_or_default() {
        let seq = sysfs.disk_sequence(dev);
        match cached_answer(dev, seq, true) {
            Some(answer) => answers.push((dev, answer)),
            None => uncached.push((dev, seq)),
        }
    }
    for batch in uncached.chunks(BATCH) {
        answers.extend(query(batch));
    }
    let device = |(dev, answer): (u64, Answer)| {
        let backing = match answer {
            Ok(backing) => backing.identity(sysfs),
            Err(_) => named(dev, sysfs)?,
        };
        Some(LoopDevice { dev, identity: Identity::device(dev, sysfs), backing })
    };
    answers.into_iter().filter_map(device).collect()
}

/// Returns the file that a device's file name leads to, if no file system has to be queried for it.
fn named(dev: u64, sysfs: &Sysfs) -> Option<Identity> {
    Identity::of_open(open::locate_cached(&sysfs.backing_name(dev).ok()??).ok()?)
}

/// Returns the range of a file that a loop device on it occupies. Offset and size limit may be
/// changed while a device is in use, so they are never cached.
///
/// # Errors
///
/// [`Unknown::Refused`] if sysfs cannot be read.
pub(in crate::lock) fn extent(
    dev: u64,
    backing: Identity,
    sysfs: &Sysfs,
) -> Result<Extent, Unknown> {
    let failed =
        |error: io::Error| Unknown::Refused(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let (offset, limit) = sysfs.loop_range(dev).map_err(failed)?.unwrap_or_default();
    Ok(Extent::exact(backing, Span::new(offset, limit)))
}

/// Returns the cached answer of a device; a survey of many devices uses failures for longer.
fn cached_answer(dev: u64, seq: u64, is_survey: bool) -> Option<Answer> {
    let cached = sync::lock(&CACHE);
    let cached = cached.get(&dev).filter(|cached| cached.seq == seq)?;
    let recent = cached.since.elapsed() < FAILURE_TTL;
    let is_due = !is_survey && cached.since.elapsed() >= RETRY_DELAY && !is_pending(dev);
    match cached.answer {
        // Kernels before 5.15 have no disk sequence numbers.
        Ok(_) => (![0, UNKNOWN_SEQUENCE].contains(&seq)).then_some(cached.answer),
        Err(Unknown::Unresponsive) => (recent && !is_due).then_some(cached.answer),
        Err(_) => (is_survey && recent).then_some(cached.answer),
    }
}

/// Queries some devices, and caches the answers.
fn query(devices: &[(u64, u64)]) -> BTreeMap<u64, Answer> {
    // Another version may be installed by now; this is the program that knows the option.
    let mut command = Command::new("/proc/self/exe");
    command.arg("--loop-status").stdin(Stdio::null());
    command.args(devices.iter().map(|(dev, _)| format!("{}:{}", major(*dev), minor(*dev))));
    let (output, ended) =
        subprocess::run_until_reaped(command, TIMEOUT, QueryGuard::begin(devices));
    let output = String::from_utf8_lossy(&output);
    let mut answers: BTreeMap<u64, Answer> = output.lines().filter_map(parse).collect();
    let since = Instant::now();
    let mut cached = sync::lock(&CACHE);
    for (dev, seq) in devices {
        let missing = Err(if ended { Unknown::NotQueried } else { Unknown::Unresponsive });
        let answer = *answers.entry(*dev).or_insert(missing);
        cached.insert(*dev, CachedAnswer { seq: *seq, answer, since });
    }
    answers
}

/// Parses a line of the subprocess: `7:0 ok DEV INO RDEV`, or `7:0 error ERRNO`.
fn parse(line: &str) -> Option<(u64, Answer)> {
    let mut words = line.split(' ');
    let Device(dev) = words.next()?.parse().ok()?;
    let answer = match words.next()? {
        "ok" => {
            let mut number = || words.next()?.parse().ok();
            Ok(Backing { dev: number()?, ino: number()?, rdev: number()? })
        }
        "error" => Err(Unknown::Refused(parse_errno(words.next()?)?)),
        _ => return None,
    };
    Some((dev, answer))
}

/// A device number, such as `7:0`.
#[derive(Debug, Clone, Copy)]
pub struct Device(u64);

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let number = parts
            .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)));
        number.map(Self).ok_or_else(|| format!("{text:?} is not MAJOR:MINOR"))
    }
}

/// Queries the kernel about each of these devices and writes a line for each answer: the work of
/// the subprocess. A device that does not respond delays no other.
///
/// # Errors
///
/// Errors of writing.
pub fn write_status(devices: &[Device], mut to: impl Write) -> io::Result<()> {
    let (sender, answers) = mpsc::channel();
    for Device(dev) in devices.iter().copied() {
        let sender = sender.clone();
        // The receiver is gone only if the process is about to end.
        let answer = move || {
            let _ = sender.send((dev, status(dev)));
        };
        thread::Builder::new().spawn(answer)?;
    }
    drop(sender);
    for (dev, answer) in answers {
        let (major, minor) = (major(dev), minor(dev));
        match answer {
            Ok(Backing { dev, ino, rdev }) => writeln!(to, "{major}:{minor} ok {dev} {ino} {rdev}"),
            Err(errno) => writeln!(to, "{major}:{minor} error {}", errno.raw_os_error()),
        }?;
        to.flush()?;
    }
    Ok(())
}

fn status(dev: u64) -> Result<Backing, Errno> {
    let node = Sysfs::default().node(dev).ok().flatten().ok_or(Errno::NOENT)?;
    status_of(&node, dev)
}

/// Queries a device through a node, which is opened only if it is that of this loop device: opening
/// other devices may have side effects, and only loop devices know the request.
fn status_of(node: &Path, dev: u64) -> Result<Backing, Errno> {
    let pin = open::locate(node, Links::Follow)?;
    let stat = fstat(&pin)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::BlockDevice || stat.st_rdev != dev || !is_loop(dev) {
        return Err(Errno::NODEV);
    }
    let device = open::reopen(pin.as_fd(), false)?;
    let [dev, ino, rdev, ..] = loop_info(device.as_fd())?;
    Ok(Backing { dev: decoded(dev), ino, rdev: decoded(rdev) })
}

/// Decodes a device number in the encoding of `huge_encode_dev()` (`<linux/kdev_t.h>`): its 32 bits
/// are those of `makedev(3)`.
fn decoded(dev: u64) -> u64 {
    dev & 0xffff_ffff
}

/// Returns the `struct loop_info64` of a device, which begins with device, inode, number of the
/// device, offset and size limit.
#[allow(unsafe_code)]
fn loop_info(device: BorrowedFd<'_>) -> Result<[u64; 29], Errno> {
    // SAFETY: the descriptor is that of a loop device, for which this request is known to write a
    // `struct loop_info64`: 232 bytes, all of them integers, which fill an array of 29 u64.
    unsafe { ioctl(device, Getter::<GET_STATUS, [u64; 29]>::new()) }
}

/// Caches for a test what a device is set up on.
#[cfg(test)]
pub(in crate::lock) fn remember(dev: u64, seq: u64, (on, ino): (u64, u64)) {
    let answer = Ok(Backing { dev: on, ino, rdev: 0 });
    let cached = CachedAnswer { seq, answer, since: Instant::now() };
    sync::lock(&CACHE).insert(dev, cached);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_decoded() {
        assert_eq!(decoded(0), 0);
        assert_eq!(decoded(0xfe00), makedev(254, 0));
        assert_eq!(decoded(0x29), makedev(0, 0x29));
        assert_eq!(decoded(0x1234_5677), makedev(0x456, 0x1_2377));
    }

    #[test]
    fn an_unresponsive_device_is_queried_again_once_no_process_hangs() {
        let (dev, seq) = (makedev(7, 90_000), 5);
        let since = Instant::now().checked_sub(RETRY_DELAY).unwrap();
        let unresponsive = Err(Unknown::Unresponsive);
        CACHE.lock().unwrap().insert(dev, CachedAnswer { seq, answer: unresponsive, since });
        let queries = [QueryGuard::begin(&[(dev, seq)]), QueryGuard::begin(&[(dev, seq)])];
        assert_eq!(cached_answer(dev, seq, false), Some(unresponsive));
        drop(queries);
        assert_eq!(cached_answer(dev, seq, false), None);
        assert_eq!(cached_answer(dev, seq, true), Some(unresponsive));
        let cached = CachedAnswer { seq, answer: unresponsive, since: Instant::now() };
        CACHE.lock().unwrap().insert(dev, cached);
        assert_eq!(cached_answer(dev, seq, false), Some(unresponsive));
    }

    #[test]
    fn answers_are_parsed_strictly() {
        let read = |line: &str| parse(line).map(|(dev, answer)| (minor(dev), answer));
        let backing = Backing { dev: 9, ino: 8, rdev: 0 };
        assert_eq!(read("7:3 ok 9 8 0"), Some((3, Ok(backing))));
        assert_eq!(read("7:3 error 13"), Some((3, Err(Unknown::Refused(Errno::ACCESS)))));
        for line in ["", "7:3", "7 ok 1 2 3", "7:3 ok 1 2", "7:3 error x", "7:3 so 1 2 3"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn only_the_node_of_a_loop_device_is_opened() {
        for node in ["/dev/null", "/dev", "/none/such"] {
            assert!(status_of(Path::new(node), makedev(7, 0)).is_err(), "{node}");
        }
        let mut output = Vec::new();
        write_status(&["1:3".parse().unwrap()], &mut output).unwrap();
        assert!(output.starts_with(b"1:3 error "), "{}", String::from_utf8_lossy(&output));
        assert!("7".parse::<Device>().is_err());
    }
}
