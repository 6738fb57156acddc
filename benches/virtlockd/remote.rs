//! A remote mount on the host: a FUSE file system, which any server may hang on.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

/// The time limit for mounting.
const DEADLINE: Duration = Duration::from_secs(20);

/// A directory that bindfs serves at another name, until it is dropped.
#[derive(Debug)]
pub(crate) struct RemoteMount {
    server: Child,
    point: PathBuf,
}

impl RemoteMount {
    /// Mounts it below `directory`.
    ///
    /// # Errors
    ///
    /// A message if bindfs is missing, or may not mount.
    pub(crate) fn mount(directory: &Path) -> Result<RemoteMount, String> {
        let (behind, point) = (directory.join("behind"), directory.join("remote"));
        for created in [&behind, &point] {
            match std::fs::create_dir(created) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error.to_string());
                }
                _ => {}
            }
        }
        std::fs::write(behind.join("disk"), "").map_err(|error| error.to_string())?;
        let mut command = Command::new("bindfs");
        command.arg("-f").args([&behind, &point]).stdin(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().map_err(|error| format!("bindfs: {error}"))?;
        let mut mount = RemoteMount { server, point };
        let begun = Instant::now();
        while !mount.point.join("disk").exists() {
            if !matches!(mount.server.try_wait(), Ok(None)) || begun.elapsed() > DEADLINE {
                return Err("bindfs cannot mount a FUSE file system".to_owned());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(mount)
    }
}

impl Drop for RemoteMount {
    fn drop(&mut self) {
        // Fails if it was never mounted.
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
