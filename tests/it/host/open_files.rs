//! Processes that have a disk open without a lock are named, and conflict with nothing.

use std::collections::HashMap;
use std::path::Path;

use crate::dbus_client::{TestVm, exclusive, owner};
use crate::fixture::user::GAMES;
use crate::fixture::{Fixture, Tool, within};
use crate::nspawn::{Host, Tree};

/// QEMU with a disk, without a kernel: it says its process number first, then its greeting.
fn qemu(disk: &Path, name: &str) -> Vec<String> {
    let path = disk.to_str().unwrap();
    let file = format!("driver=raw,node-name=a,file.driver=file,file.filename={path}");
    // Only a device writes.
    let script = "echo $$; exec \"$@\"";
    let line = ["sh", "-c", script, "sh", "qemu-system-x86_64", "-accel", "tcg"];
    let rest = ["-machine", "pc", "-S", "-nodefaults", "-nographic", "-qmp", "stdio"];
    let disk = ["-blockdev", &file, "-device", "virtio-blk-pci,drive=a"];
    let who = ["-name", name, "-uuid", UUID];
    [&line[..], &rest, &disk, &who].concat().into_iter().map(str::to_owned).collect()
}

const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

/// The process number of a QEMU that is up.
async fn up(tool: &mut Tool) -> u32 {
    let pid = tool.line().await.parse().unwrap();
    assert!(tool.line().await.contains("QMP"));
    // It greets before it has made its devices, and obeys after.
    tool.write_line("{\"execute\": \"qmp_capabilities\"}");
    assert!(tool.line().await.contains("return"));
    pid
}

#[tokio::test]
async fn a_vm_with_the_disk_open_is_named_and_causes_no_refusal() {
    let fixture = Fixture::builder().start().await;
    let (disk, bus) = (fixture.raw_of(GAMES, "a.img"), fixture.connection().await);
    let name = "guest=web\u{1b}1,debug-threads=on";
    let words = qemu(&disk, name);
    let mut command = fixture.command_as(GAMES, &words[0]);
    command.args(&words[1..]);
    let mut tool = Tool::new(command, &fixture.dir().join("tool.log"));
    let pid = up(&mut tool).await;
    let user = format!("QEMU \"web\u{fffd}1\" (pid {pid}, user games)");

    let path = disk.to_str().unwrap();
    let said = fixture.run("vmlockctl", &["who", path]).await.ok();
    assert_eq!(said, format!("{user} has disk {path} open\n"));
    let said = fixture.run("vmlockctl", &["--json", "who", path]).await.ok();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let holder = &said[0]["holders"][0];
    for (key, value) in
        [("kind", "opener"), ("uuid", UUID), ("mode", "exclusive"), ("resource", path)]
    {
        assert_eq!(holder[key], value, "{holder}");
    }

    // As libvirt's own QEMU is there before libvirt asks.
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert!(refused.message.contains("by VM \"web1\""), "{refused:?}");
    assert!(refused.message.ends_with(&format!("; {user} has it open")), "{refused:?}");
    let said = fixture.run("vmlockctl", &["who", path]).await.ok();
    assert_eq!(said.lines().count(), 2, "{said}");

    // A VM that is refused is not told of its own QEMU.
    web2.owner.bind_pid(pid, HashMap::new()).await.unwrap();
    let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert!(refused.message.contains("by VM \"web1\""), "{refused:?}");
    assert!(!refused.message.contains("QEMU"), "{refused:?}");
    let own = TestVm::open(&bus, "web\u{fffd}1").await;
    let refused = own.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert!(!refused.message.contains("QEMU"), "{refused:?}");
    let web2 = TestVm::open(&bus, "web3").await;

    // The holder is not named twice.
    web1.owner.bind_pid(pid, HashMap::new()).await.unwrap();
    let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert!(!refused.message.contains("QEMU"), "{refused:?}");
    let said = fixture.run("vmlockctl", &["who", path]).await.ok();
    assert_eq!(said.lines().count(), 1, "{said}");
    web1.owner.close(HashMap::new()).await.unwrap();
    tool.write_line("{\"execute\": \"quit\"}");
    assert!(tool.ended().await.success());
    let ran = fixture.run("vmlockctl", &["who", path]).await;
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
}

/// A program that locks byte 0 of a file as `fcntl` does with this command, says its process
/// number, and lives until its input ends.
pub(crate) fn locker(command: u32, path: &str) -> [String; 3] {
    // struct flock, as 64-bit Linux has it.
    let lock = format!(
        "my $l = pack('s s x4 q q l x4', 1, 0, 0, 1, 0); fcntl(F, {command}, $l) or die $!"
    );
    let open = format!("open(F, '+<', '{path}') or die $!");
    let script = format!("{open}; {lock}; $| = 1; print \"$$\\n\"; <STDIN>");
    ["perl".to_owned(), "-e".to_owned(), script]
}

async fn openers_of_other_users_are_named_by_the_unit(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    host.enable().await;
    let image = host.image("a.img");
    let path = image.to_str().unwrap();
    host.run(&["chown", "games", path]).await.ok();
    // F_SETLK and F_OFD_SETLK.
    for command in [6, 37] {
        let words = locker(command, path);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut perl = host.spawn_as("games", &words);
        let pid = perl.line().await;
        let told = format!("by another program (perl, pid {pid}, user games)");
        let ran = host.run(&["vmlockctl", "run", "--disk", path, "--", "true"]).await;
        assert_eq!(ran.status.code(), Some(75), "{ran:?}");
        assert!(ran.stderr.contains(&told), "{ran:?}");
        let said = host.run(&["vmlockctl", "who", path]).await.ok();
        assert!(said.contains(&told), "{said}");
        within("perl ends", perl.finish()).await;
    }
    if !host.at("/usr/bin/qemu-system-x86_64").exists() {
        return;
    }
    let words = qemu(&image, "web1");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut tool = host.spawn_as("games", &words);
    let pid = up(&mut tool).await;
    let user = format!("QEMU \"web1\" (pid {pid}, user games)");
    let said = host.run(&["vmlockctl", "who", path]).await.ok();
    assert_eq!(said, format!("{user} has disk {path} open\n"));
    let bus = host.bus().await;
    let manager = crate::dbus_client::manager(&bus).await;
    let manual = HashMap::from([("manual", true.into())]);
    let found = manager.open_owner("", "web1", manual).await;
    let web1 = owner(&bus, found.unwrap().0).await;
    web1.acquire(&[exclusive(&image)], HashMap::new()).await.unwrap();
    let ran = host.run(&["vmlockctl", "run", "--disk", path, "--", "true"]).await;
    assert!(ran.stderr.ends_with(&format!("; {user} has it open\n")), "{ran:?}");
}

#[tokio::test]
async fn openers_of_other_users_are_named_by_the_unit_here() {
    openers_of_other_users_are_named_by_the_unit(Tree::Own).await;
}

#[tokio::test]
async fn openers_of_other_users_are_named_by_the_unit_on_trixie() {
    openers_of_other_users_are_named_by_the_unit(Tree::Release("trixie")).await;
}
