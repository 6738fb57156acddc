//! A FUSE server that never answers when one process closes a file.
//!
//! It tells who closes by the process number in the request, so that the message bus and the test,
//! which close their copies, are answered. Its file system is mounted in a mount namespace of its
//! own: any user can make one that differs only in the user namespace that it belongs to.
//!
//! The protocol is that of <linux/fuse.h>.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::signal::Signal,
};

use super::{Process, process::mortal, rival::main_function};

const DIR: &str = "VMLOCKD_TEST_FUSE_DIR";
const CLOSER: &str = "VMLOCKD_TEST_FUSE_CLOSER";

/// A file system with one file, `disk`.
pub(crate) struct HangingClose {
    process: Process,
    dir: PathBuf,
}

impl HangingClose {
    /// Mounts it at a new directory. A close hangs if a thread of the process `closer` calls it.
    pub(crate) async fn start(dir: &Path, closer: u32) -> HangingClose {
        fs::create_dir(dir).expect("a directory to mount at");
        let mut command = mortal(None, "unshare");
        command.args(["--mount", "--propagation=private", "--"]);
        command.arg(env::current_exe().expect("this binary has a path"));
        command.args(main_function(concat!(module_path!(), "::fuse_main")));
        command.env(DIR, dir).env(CLOSER, closer.to_string()).stdout(Stdio::piped());
        let process = Process::start("FUSE server", command, &dir.with_extension("log"));
        let server = HangingClose { process, dir: dir.to_owned() };
        let mounted = async {
            while server.disk().is_err() {
                assert!(server.process.lives(), "FUSE server: {}", server.process.stderr());
                tokio::task::yield_now().await;
            }
        };
        super::within("the file system is mounted", mounted).await;
        server
    }

    /// Opens the file.
    pub(crate) fn disk(&self) -> io::Result<File> {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.pid()));
        let path = root.join(self.dir.strip_prefix("/").expect("absolute")).join("disk");
        File::options().read(true).write(true).open(path)
    }

    /// Kills the server: what waits for it gets an error.
    pub(crate) fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
    }
}

/// What is answered to a request: nothing, an error, or data.
type Reply = Option<Result<Vec<u8>, Errno>>;

#[test]
#[ignore = "it is the main function of the FUSE server that other tests start"]
fn fuse_main() {
    let (Some(dir), Ok(closer)) = (env::var_os(DIR), env::var(CLOSER)) else { return };
    let mut device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let (fd, flags) = (device.as_raw_fd(), MsFlags::empty());
    let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
    mount(Some("hanging"), Path::new(&dir), Some("fuse"), flags, Some(data.as_str())).unwrap();
    let mut request = vec![0; 1 << 18];
    loop {
        let length = match device.read(&mut request) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // It was unmounted, or a request was aborted before it was read.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => continue,
            Err(_) => return,
        };
        let Some(reply) = reply(&request[..length], &closer) else { continue };
        let (error, data) = match reply {
            Ok(data) => (0, data),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let length = u32::try_from(16 + data.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &error.to_ne_bytes()].concat();
        bytes.extend_from_slice(&request[8..16]);
        bytes.extend_from_slice(&data);
        // The request may have been aborted.
        let _ = device.write_all(&bytes);
    }
}

fn reply(request: &[u8], closer: &str) -> Reply {
    const FILE: u64 = 2;
    let u32_at = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    let (opcode, thread) = (u32_at(4), u32_at(32));
    let node = u64::from_ne_bytes(request[16..24].try_into().unwrap());
    Some(match opcode {
        // LOOKUP: whatever the name, it is the file, for a day.
        1 => Ok([words(&[FILE, 0, 86400, 86400, 0]), attributes(FILE)].concat()),
        // GETATTR.
        3 => Ok([words(&[86400, 0]), attributes(node)].concat()),
        // OPEN.
        14 => Ok(words(&[7, 0])),
        // STATFS.
        17 => Ok(words(&[0; 10])),
        // FLUSH: a close.
        25 if Path::new(&format!("/proc/{closer}/task/{thread}")).exists() => return None,
        // Any other one, RELEASE, ACCESS.
        25 | 18 | 34 => Ok(Vec::new()),
        // INIT, version 7.31.
        26 => Ok([
            &7_u32.to_ne_bytes()[..],
            &31_u32.to_ne_bytes(),
            &[0; 12],
            &[0, 16, 0, 0],
            &[0; 40],
        ]
        .concat()),
        // FORGET, INTERRUPT, BATCH_FORGET.
        2 | 36 | 42 => return None,
        _ => Err(Errno::ENOSYS),
    })
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn attributes(node: u64) -> Vec<u8> {
    let mode: u32 = if node == 1 { 0o40755 } else { 0o100_666 };
    let numbers = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
    let size = 1 << 20;
    let mut bytes = words(&[node, size, size / 512, 0, 0, 0]);
    bytes.extend(numbers.iter().flat_map(|number: &u32| number.to_ne_bytes()));
    bytes
}
