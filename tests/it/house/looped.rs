//! Block devices of a test's own: loop devices, and parts of them.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A loop device that is detached when the test ends. Declare it before the house, so that nobody has
/// it or a part of it open by then.
#[derive(Debug)]
pub(crate) struct Looped {
    node: PathBuf,
    parts: u32,
    dir: Option<TempDir>,
}

impl Looped {
    /// One with a file of its own.
    pub(crate) fn new() -> Looped {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = File::create_new(dir.path().join("disk")).expect("a file in it");
        file.set_len(1 << 20).expect("a sparse file");
        let mut device = Looped::attach(&dir.path().join("disk"));
        device.dir = Some(dir);
        device
    }

    /// Attaches a file, or another device.
    pub(crate) fn attach(to: &Path) -> Looped {
        Looped::attach_range(to, 0, 0)
    }

    /// Attaches a range of a file or of another device, in bytes; up to the end where its length is 0.
    pub(crate) fn attach_range(to: &Path, offset: u64, length: u64) -> Looped {
        let to = to.to_str().expect("a name in UTF-8");
        let (offset, length) = (offset.to_string(), length.to_string());
        let node =
            told("losetup", &["--find", "--show", "--offset", &offset, "--sizelimit", &length, to]);
        Looped::adopt(node.trim().into())
    }

    /// One that was attached already.
    pub(crate) fn adopt(node: PathBuf) -> Looped {
        let device = Looped { node, parts: 0, dir: None };
        // The kernel keeps the parts of a device that is detached.
        let name = device.node.file_name().expect("a node");
        let folder = Path::new("/sys/block").join(name);
        for entry in fs::read_dir(folder).expect("a folder of the device") {
            let partition = entry.expect("an entry").path().join("partition");
            if let Ok(number) = fs::read_to_string(partition) {
                told("delpart", &[device.name(), number.trim()]);
            }
        }
        device
    }

    /// The file that it was made of.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.as_ref().expect("a file of its own").path().join("disk")
    }

    /// The device's node.
    pub(crate) fn node(&self) -> &Path {
        &self.node
    }

    /// Has it begin elsewhere in its file, as no program does with a device that is in use: there is
    /// `LOOP_SET_STATUS64` for it, which gets what `LOOP_GET_STATUS64` told, but for the offset.
    pub(crate) fn set_offset(&self, offset: u64) {
        let script = "open(my $device, '+<', $ARGV[0]) or die $!; my $told = \"\\0\" x 232;
            ioctl($device, 0x4C05, $told) or die $!; substr($told, 24, 8) = pack('Q', $ARGV[1]);
            ioctl($device, 0x4C04, $told) or die $!;";
        told("perl", &["-e", script, self.name(), &offset.to_string()]);
    }

    /// Detaches it, which no process may have open, and sets the same device up on another file.
    pub(crate) fn set_up_anew(&self, file: &Path) {
        told("losetup", &["--detach", self.name()]);
        told("losetup", &[self.name(), file.to_str().expect("a name in UTF-8")]);
    }

    /// Makes a partition of so many sectors; its node.
    pub(crate) fn part(&mut self, start: u32, sectors: u32) -> PathBuf {
        self.parts += 1;
        let (start, sectors, number) =
            (start.to_string(), sectors.to_string(), self.parts.to_string());
        told("addpart", &[self.name(), &number, &start, &sectors]);
        format!("{}p{number}", self.name()).into()
    }

    /// The number of a device, as in sysfs.
    pub(crate) fn number(node: &Path) -> String {
        let dev = fs::metadata(node).expect("a node").rdev();
        format!("{}:{}", nix::sys::stat::major(dev), nix::sys::stat::minor(dev))
    }

    fn name(&self) -> &str {
        self.node.to_str().expect("a name in UTF-8")
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        for number in 1..=self.parts {
            let _ = Command::new("delpart").arg(&self.node).arg(number.to_string()).status();
        }
        // Whoever has it open keeps it until he closes it.
        let _ = Command::new("losetup").arg("--detach").arg(&self.node).status();
    }
}

fn told(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
