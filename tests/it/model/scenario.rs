//! The environment of the VMs: disks with several names, and a process that probes their lock
//! bytes.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uuid::Uuid;
use vmlockd::lock::descriptor::passed::Sender;
use vmlockd::lock::disk::in_use::InUse;
use vmlockd::lock::model::disk_path::DiskPath;
use vmlockd::lock::path::open::Links;
use vmlockd::lock::resolve::lock_file::Naming;
use vmlockd::lock::resolve::{Resolve, Wanted};
use vmlockd::lock::{Mode, OwnerId, ofd};
use vmlockd::service::{Disk as Asked, LockRequest};

use super::op::{DISKS, Disk, DiskRequest, Spelling, VMS, Vm};

/// Where all of it is: in memory, if the machine has a file system there.
const MEMORY: &str = "/dev/shm";

/// The disks, and a directory for the service.
#[derive(Debug)]
pub(super) struct Scenario {
    directory: TempDir,
    names: Vec<PathBuf>,
    aliases: Vec<PathBuf>,
    /// Descriptions of nobody's, to ask the kernel with.
    foreign_holders: Vec<File>,
}

impl Scenario {
    pub(super) fn set_up() -> Self {
        let memory = Path::new(MEMORY);
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory =
            tempfile::Builder::new().prefix("vmlockd-model-").tempdir_in(place).unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        let (mut names, mut aliases, mut foreign_holders) = (Vec::new(), Vec::new(), Vec::new());
        for disk in 0..DISKS {
            let name = directory.path().join(format!("disk{disk}"));
            let alias = directory.path().join(format!("alias{disk}"));
            foreign_holders.push(File::create_new(&name).unwrap());
            if disk % 2 == 0 {
                fs::hard_link(&name, &alias).unwrap();
            } else {
                symlink(&name, &alias).unwrap();
            }
            names.push(name);
            aliases.push(alias);
        }
        Self { directory, names, aliases, foreign_holders }
    }

    /// The service's runtime directory.
    pub(super) fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// No service has ever been here.
    pub(super) fn forget_all(&self) {
        for entry in fs::read_dir(self.runtime_dir()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// The name by which a disk is asked for; the service finds it out for a descriptor.
    pub(super) fn name(&self, disk: Disk, spelling: Spelling) -> &Path {
        match spelling {
            Spelling::Name | Spelling::Open => &self.names[disk.0],
            Spelling::Alias => &self.aliases[disk.0],
        }
    }

    /// The disk that a name means.
    pub(super) fn disk(&self, name: &str) -> Option<Disk> {
        let is = |known: &PathBuf| known.to_str() == Some(name);
        let position = self.names.iter().position(is).or_else(|| self.aliases.iter().position(is));
        position.map(Disk)
    }

    /// Converts a request for the service.
    pub(super) fn ask(&self, disk_request: &DiskRequest) -> LockRequest {
        let name = self.name(disk_request.disk, disk_request.spelling);
        let wanted = if disk_request.spelling == Spelling::Open {
            let file = File::options().read(true).write(true).open(name).unwrap();
            Wanted::File(OwnedFd::from(file).into(), Sender { uid: 0, trusted: true })
        } else {
            Wanted::Path(DiskPath::parse(name.to_str().unwrap()).unwrap())
        };
        let resolve = Resolve::new(wanted, Naming::Direct, Links::Follow);
        let (disk, mode) = (Asked::Wanted(resolve), disk_request.mode);
        LockRequest { disk, mode, with_lease: false, in_use: InUse::Refused, named_by: None }
    }

    /// Returns the locks of the disks, as a foreign process sees them.
    pub(super) fn bytes(&self) -> [Option<Mode>; DISKS] {
        std::array::from_fn(|disk| {
            let seen = ofd::conflicting_lock(&self.foreign_holders[disk], Mode::Exclusive).unwrap();
            seen.map(|lock| lock.mode)
        })
    }
}

/// A machine as the service knows it.
pub(super) fn id(vm: Vm) -> OwnerId {
    OwnerId::new(0, Uuid::from_u128(1 + vm.0 as u128))
}

/// The machine that the service means.
pub(super) fn vm(id: OwnerId) -> Vm {
    (0..VMS).map(Vm).find(|vm| self::id(*vm) == id).expect("an owner that somebody opened")
}
