//! The peer: the other process that a lock has to exclude.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::lock::model::mode::Mode;
use crate::lock::ofd;
use crate::lock::path::subprocess::parse_errno;

/// The first argument of the peer; the file follows.
pub(super) const ARGUMENT: &str = "--try-locks-rival";

/// A command for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerCommand {
    /// To acquire an OFD lock.
    Own(Mode),
    /// To acquire an exclusive POSIX lock, as virtlockd does.
    Posix,
    /// To close the file.
    Close,
}

impl PeerCommand {
    fn letter(self) -> u8 {
        match self {
            Self::Own(Mode::Shared) => b's',
            Self::Own(_) => b'e',
            Self::Posix => b'p',
            Self::Close => b'c',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        let all = [Self::Own(Mode::Shared), Self::Own(Mode::Exclusive), Self::Posix, Self::Close];
        all.into_iter().find(|command| command.letter() == letter)
    }
}

/// The peer, as seen from the process that performs the steps.
pub(super) struct Peer {
    process: Child,
    stdin: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(super) fn start(file: &Path) -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe");
        process.arg(OsStr::new(ARGUMENT)).arg(file).current_dir("/");
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = process.spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (stdin, answers) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { process, stdin, answers: BufReader::new(answers) })
    }

    /// Sends a command; returns whether it succeeded.
    pub(super) fn send(&mut self, command: PeerCommand) -> Result<bool, Errno> {
        let mut exchange = || -> io::Result<String> {
            self.stdin.write_all(&[command.letter()])?;
            let mut line = String::new();
            self.answers.read_line(&mut line)?;
            Ok(line)
        };
        let line = exchange().map_err(|error| errno(&error))?;
        match line.trim_end() {
            "got" => Ok(true),
            "refused" => Ok(false),
            other => Err(parse_errno(other).unwrap_or(Errno::PIPE)),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The peer ends after its last command. If it hangs, this process hangs in the wait, and is
        // abandoned by the service.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the peer until its input ends: it prints a line for each letter.
pub(super) fn run(file: &Path, commands: impl BufRead, mut answers: impl Write) {
    let mut open = None;
    for letter in commands.bytes().map_while(Result::ok) {
        let answer = match PeerCommand::of(letter).map(|command| perform(&mut open, file, command))
        {
            Some(Ok(true)) => "got".to_owned(),
            Some(Ok(false)) => "refused".to_owned(),
            Some(Err(errno)) => errno.raw_os_error().to_string(),
            None => Errno::INVAL.raw_os_error().to_string(),
        };
        if writeln!(answers, "{answer}").and_then(|()| answers.flush()).is_err() {
            return;
        }
    }
}

fn perform(open: &mut Option<File>, path: &Path, command: PeerCommand) -> Result<bool, Errno> {
    if command == PeerCommand::Close {
        *open = None;
        return Ok(true);
    }
    let file = if let Some(file) = open {
        file
    } else {
        let mut how = File::options();
        how.read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        open.insert(how.open(path).map_err(|error| errno(&error))?)
    };
    match command {
        PeerCommand::Own(mode) => ofd::try_lock(file, mode),
        _ => ofd::try_lock_as_process(file, Mode::Exclusive),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::PIPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_one_answer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let answers_to = |commands: &[u8]| {
            let mut answers = Vec::new();
            run(file.path(), commands, &mut answers);
            String::from_utf8(answers).unwrap()
        };
        assert_eq!(answers_to(b"ecspx"), "got\ngot\ngot\nrefused\n22\n");
        let own = File::options().read(true).write(true).open(file.path()).unwrap();
        assert!(ofd::try_lock(&own, Mode::Exclusive).unwrap());
        assert_eq!(answers_to(b"esp"), "refused\nrefused\nrefused\n");
        drop(file);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let mut answers = Vec::new();
        run(Path::new("/none/such"), &b"e"[..], &mut answers);
        assert_eq!(answers, b"2\n");
    }
}
