//! The disk images that virtual machines boot.

use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    fixture::program,
    nspawn::{apart, skip},
};

/// The script that makes the image.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/vm/make");

/// A disk with a Debian of this machine's release, so that what is built here runs there, its
/// kernel, and what is installed of ours. Machines read all of it and write to copies.
pub(crate) struct Tree {
    kept: PathBuf,
    /// The files of this test.
    dir: TempDir,
}

impl Tree {
    /// Returns the tree if this host can provide it; otherwise prints the reason.
    pub(crate) fn here() -> Option<Tree> {
        for needed in ["mmdebstrap", "cpio", "mke2fs", "strip", "make", "qemu-system-x86_64"] {
            let there = Command::new("sh").args(["-c", "command -v \"$0\"", needed]).output();
            if !there.is_ok_and(|there| there.status.success()) {
                return skip(&format!("{needed} is not installed"));
            }
        }
        let kept = match release().and_then(|release| kept(&release)) {
            Ok(kept) => kept,
            Err(reason) => return skip(&reason),
        };
        let dir = tempfile::Builder::new().prefix("vmlockd-vm-").tempdir();
        let tree = Tree { kept, dir: dir.expect("a temporary directory") };
        let mut command = Command::new(SCRIPT);
        command.arg("initrd").arg(&tree.kept);
        command.arg(program("vmlockd").parent().expect("programs are in a directory"));
        let output = run(command.arg(tree.initrd()));
        assert!(output.status.success(), "what is ours can't be packed: {output:?}");
        Some(tree)
    }

    /// An empty disk for machines, which is gone with the tree.
    pub(crate) fn image(&self, name: &str, megabytes: u64) -> PathBuf {
        let path = self.dir().join(name);
        let file = File::create_new(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.set_len(megabytes << 20).expect("a sparse file");
        path
    }

    /// Where there is room for a test's own files.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.kept.join("disk")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.kept.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.dir().join("initrd")
    }
}

/// The release of Debian that this machine has.
fn release() -> Result<String, String> {
    let text = fs::read_to_string("/etc/os-release").map_err(|error| error.to_string())?;
    let word = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    match (word("ID").as_deref(), word("VERSION_CODENAME")) {
        (Some("debian"), Some(release)) => Ok(release),
        _ => Err("this machine has no release of Debian".to_owned()),
    }
}

/// Returns the constant part, which one test makes while the others wait. It is kept in cargo's
/// target directory.
fn kept(release: &str) -> Result<PathBuf, String> {
    let trees = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trees");
    // Another script would make another one.
    let mut hasher = DefaultHasher::new();
    include_str!("make").hash(&mut hasher);
    let name = format!("vm-{release}-{:016x}", hasher.finish());
    let (tree, part) = (trees.join(&name), trees.join(format!("{name}.part")));
    fs::create_dir_all(&trees).expect("a directory among what cargo builds");
    let turn = File::create(trees.join(format!("{name}.lock"))).expect("a file beside the tree");
    turn.lock().expect("a lock can be waited for");
    if tree.is_dir() {
        return Ok(tree);
    }
    // An incomplete image of a killed process.
    let _ = fs::remove_dir_all(&part);
    let output = run(apart().args([SCRIPT, "tree", release]).arg(&part));
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("there can't be a disk with Debian {release}: {}", said.trim()));
    }
    fs::rename(&part, &tree).expect("a tree can be given its name");
    Ok(tree)
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("a program of everybody's can be run")
}
