//! Somebody else who never stops trying to get the lock.
//!
//! A [`super::Rival`] tries once. What is lost for a moment and taken again is seen only by one who
//! tries all the time.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    DEADLINE, Kind, Process,
    process::mortal,
    rival::{lock, main_function},
};

const PATHS: &str = "VMLOCKD_TEST_INTRUDER_PATHS";
/// How often it tries at least, however soon it is stopped: often enough to see a gap.
const ENOUGH: u64 = 500;

/// A process that tries to lock byte 0 of files exclusively, in both ways and without a pause.
pub(crate) struct Intruder {
    process: Process,
    /// Its standard input: at the end of it, it stops and says what has become of its tries.
    control: UnixStream,
}

/// What an intruder has done.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// How often it has tried, over all files and both kinds.
    pub(crate) tries: u64,
    /// What happened other than a refusal, and at which try it did first.
    pub(crate) news: Vec<String>,
}

impl Intruder {
    /// Sets one on these files. It has tried each of them when this returns.
    ///
    /// It opens them by name each time, and makes those that are not there: a lock on a file that
    /// nobody else would find protects nothing.
    pub(crate) fn at(paths: &[PathBuf], log: &Path) -> Intruder {
        let (control, theirs) = UnixStream::pair().expect("a socket pair");
        control.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        let mut command = mortal(None, env::current_exe().expect("this binary has a path"));
        command.args(main_function(concat!(module_path!(), "::intruder_main")));
        let paths: Vec<_> = paths.iter().map(|path| path.to_str().expect("UTF-8")).collect();
        command.env(PATHS, paths.join("\n"));
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let mut intruder = Intruder { process: Process::start("intruder", command, log), control };
        intruder.control.read_exact(&mut [0]).expect("an intruder says that it has begun");
        intruder
    }

    /// Stops it, once it has tried often enough.
    pub(crate) fn stop(mut self) -> Attempts {
        self.control.shutdown(Shutdown::Write).expect("the socket is open");
        let mut said = String::new();
        self.control.read_to_string(&mut said).expect("an intruder says what it has done");
        let mut lines = said.lines().map(str::to_owned);
        let tries = lines.next().and_then(|line| line.parse().ok()).expect("a number comes first");
        Attempts { tries, news: lines.collect() }
    }
}

impl Attempts {
    /// Each was refused, and there were enough of them to see a gap.
    #[track_caller]
    pub(crate) fn were_refused(&self) {
        assert!(self.news.is_empty(), "in {} tries: {:#?}", self.tries, self.news);
        assert!(self.tries >= ENOUGH, "only {} tries", self.tries);
    }
}

#[test]
#[ignore = "it is the main function of the intruder that other tests start"]
fn intruder_main() {
    let Ok(paths) = env::var(PATHS) else { return };
    let paths: Vec<&Path> = paths.lines().map(Path::new).collect();
    let stdin = io::stdin().as_fd().try_clone_to_owned().expect("standard input is open");
    let mut control = UnixStream::from(stdin);
    let (mut tries, mut news) = (0_u64, BTreeMap::new());
    loop {
        for (path, kind) in paths.iter().flat_map(|path| [(path, Kind::Ofd), (path, Kind::Posix)]) {
            tries += 1;
            let what = match attempt(path, kind) {
                Ok(()) => "is got".to_owned(),
                Err(Errno::EAGAIN | Errno::EACCES) => continue,
                Err(errno) => format!("can't be tried: {errno}"),
            };
            let what = format!("{} ({kind:?}) {what}", path.display());
            news.entry(what).or_insert((tries, 0_u64)).1 += 1;
        }
        if tries == 2 * paths.len() as u64 {
            control.write_all(b".").expect("whoever started us listens");
        }
        let mut event = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        if tries >= ENOUGH && poll(&mut event, PollTimeout::ZERO) == Ok(1) {
            break;
        }
    }
    let mut report = format!("{tries}\n");
    for (what, (first, times)) in news {
        writeln!(report, "{what}, first at try {first}, {times} times").expect("strings grow");
    }
    control.write_all(report.as_bytes()).expect("whoever started us listens");
}

/// Tries once. What it gets it gives back at once, with the descriptor.
pub(crate) fn attempt(path: &Path, kind: Kind) -> Result<(), Errno> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))?;
    lock(file, kind, true)
}
