//! virtlockd on one host and the service on another one keep each other from a disk: they lock the
//! same byte of the same file.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zbus::Connection;

use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::rpc::{AUTOCREATE, Answer, Owner, Rpc, SHARED};
use crate::fixture::{Fixture, Process, Virtlockd};

use super::guest::hex;
use super::many_clients::sleep;

/// Which file of a disk is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Direct,
    Hashed,
}

/// The frontend of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frontend {
    Bus,
    Rpc,
}

/// Both services, and a machine that both know.
struct Scenario {
    files: Files,
    bus: Connection,
    process: Process,
    virtlockd: Virtlockd,
    fixture: Fixture,
}

/// A lock that one of them holds.
enum Lock<'s> {
    Bus(TestVm),
    Rpc(&'s Scenario, Rpc, PathBuf),
}

impl Scenario {
    async fn set_up(files: Files, way: Frontend) -> Option<Scenario> {
        let socket = match way {
            Frontend::Bus => "",
            Frontend::Rpc => "virtlockd_socket = \"@DIR@/virtlockd-sock\"\n",
        };
        let hashed = match files {
            Files::Direct => "",
            Files::Hashed => "file_lockspace_dir = \"@DIR@/locks\"\n",
        };
        let fixture = Fixture::builder().folder("locks").config(&[socket, hashed].concat());
        let fixture = fixture.start().await;
        let virtlockd = super::virtlockd(&fixture.dir().join("virtlockd"))?;
        let (bus, process) = (fixture.connection().await, sleep(&fixture));
        Some(Scenario { files, bus, process, virtlockd, fixture })
    }

    fn connect(&self, socket: &Path) -> Rpc {
        let mut rpc = Rpc::connect(socket).unwrap();
        rpc.register(&Owner::new("web1", 1, self.process.pid())).granted();
        rpc
    }

    /// A lockspace and a name, as libvirt would say them.
    fn named(&self, disk: &Path) -> (String, String, u32) {
        let path = disk.to_str().unwrap();
        match self.files {
            Files::Direct => (String::new(), path.to_owned(), 0),
            Files::Hashed => {
                let name = hex(&Sha256::digest(path));
                let lockspace = self.fixture.dir().join("locks").to_str().unwrap().to_owned();
                (lockspace, name, AUTOCREATE)
            }
        }
    }

    fn ask(&self, mut rpc: Rpc, disk: &Path, alone: bool) -> Option<Lock<'_>> {
        let (lockspace, name, flags) = self.named(disk);
        if self.files == Files::Hashed {
            rpc.create_lockspace(&lockspace).granted();
        }
        match rpc.acquire(&lockspace, &name, if alone { flags } else { flags | SHARED }) {
            Answer::Granted => Some(Lock::Rpc(self, rpc, disk.to_owned())),
            Answer::Refused(refusal) => {
                let busy = format!("resource busy: Lockspace resource '{name}' is locked");
                assert_eq!((refusal.code, refusal.domain), (87, 51), "{}", refusal.message);
                assert!(refusal.message.starts_with(&busy), "{}", refusal.message);
                None
            }
            Answer::Closed => panic!("closed"),
        }
    }

    fn they_lock(&self, disk: &Path, alone: bool) -> Option<Lock<'_>> {
        self.ask(self.connect(self.virtlockd.socket()), disk, alone)
    }

    async fn we_lock(&self, way: Frontend, disk: &Path, alone: bool) -> Option<Lock<'_>> {
        if way == Frontend::Rpc {
            let socket = self.fixture.dir().join("virtlockd-sock");
            return self.ask(self.connect(&socket), disk, alone);
        }
        let machine = TestVm::open(&self.bus, "web2").await;
        let disk_request = if alone { exclusive(disk) } else { shared(disk) };
        match machine.acquire(&[disk_request]).await {
            Ok(_) => Some(Lock::Bus(machine)),
            Err(refused) => {
                assert_eq!(refused.name, "LockHeldElsewhere", "{}", refused.message);
                let holder = format!("pid {}", self.virtlockd.process().pid());
                assert!(refused.message.contains(&holder), "{}", refused.message);
                machine.owner.close(crate::methods::none()).await.unwrap();
                None
            }
        }
    }
}

impl Lock<'_> {
    async fn release(self) {
        match self {
            Lock::Bus(machine) => machine.owner.close(crate::methods::none()).await.unwrap(),
            Lock::Rpc(scenario, mut rpc, disk) => {
                let (lockspace, name, _) = scenario.named(&disk);
                rpc.release(lockspace, name, 0).granted();
            }
        }
    }
}

async fn one_keeps_the_other_out(files: Files, way: Frontend) {
    let Some(scenario) = Scenario::set_up(files, way).await else { return };
    let mut number = 0;
    for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
        let both = !first && !second;
        let what = format!("{files:?}, {way:?}, alone: {first}, then {second}");
        // Lock files of one round are not those of the next.
        let mut disk = || {
            number += 1;
            scenario.fixture.raw_of(0, &format!("disk{number}"))
        };

        let path = disk();
        let theirs = scenario.they_lock(&path, first).expect(&what);
        let ours = scenario.we_lock(way, &path, second).await;
        assert_eq!(ours.is_some(), both, "they hold; {what}");
        theirs.release().await;
        let ours = match ours {
            Some(ours) => ours,
            None => scenario.we_lock(way, &path, second).await.expect(&what),
        };
        ours.release().await;
        scenario.they_lock(&path, true).expect(&what).release().await;

        let path = disk();
        let ours = scenario.we_lock(way, &path, first).await.expect(&what);
        let theirs = scenario.they_lock(&path, second);
        assert_eq!(theirs.is_some(), both, "we hold; {what}");
        ours.release().await;
        let theirs = theirs.or_else(|| scenario.they_lock(&path, second)).expect(&what);
        theirs.release().await;
        scenario.we_lock(way, &path, true).await.expect(&what).release().await;
    }
}

#[tokio::test]
async fn on_the_disk_itself() {
    one_keeps_the_other_out(Files::Direct, Frontend::Rpc).await;
}

#[tokio::test]
async fn on_the_disk_itself_over_d_bus() {
    one_keeps_the_other_out(Files::Direct, Frontend::Bus).await;
}

#[tokio::test]
async fn on_lock_files() {
    one_keeps_the_other_out(Files::Hashed, Frontend::Rpc).await;
}

#[tokio::test]
async fn on_lock_files_over_d_bus() {
    one_keeps_the_other_out(Files::Hashed, Frontend::Bus).await;
}
