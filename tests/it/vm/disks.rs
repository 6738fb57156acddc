//! Disks with identities other than their names: a logical volume, and SCSI disks.
//!
//! The expected names of their lock files come from the tools that libvirt uses.

use super::{Tree, Vm, VmBuilder};

const WWN: u64 = 0x5000_c500_a1b2_c3d4;

/// Where lock files are.
const VOLUMES: &str = "/srv/locks/lvm";
const SCSI: &str = "/srv/locks/scsi";

const CONFIG: &str = "\
lvm_lockspace_dir = \"/srv/locks/lvm\"
scsi_lockspace_dir = \"/srv/locks/scsi\"
";

/// A disk by all its names.
struct Disk<'v> {
    vm: &'v Vm,
    /// As the kernel calls it.
    node: String,
    /// As udev does.
    links: Vec<String>,
}

impl Disk<'_> {
    /// The one with this name, once it has it.
    fn named<'v>(vm: &'v Vm, name: &str) -> Disk<'v> {
        vm.run(&["udevadm", "wait", "--timeout=120", name]).ok();
        let node = vm.run(&["readlink", "-f", name]).ok().trim().to_owned();
        let links = vm.run(&["udevadm", "info", "--query=symlink", "--root", &node]).ok();
        let links: Vec<_> = links.split_whitespace().map(str::to_owned).collect();
        assert!(links.iter().any(|link| link == name), "{name} in {links:?}");
        Disk { vm, node, links }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.links.iter().chain([&self.node]).map(String::as_str)
    }

    /// Returns the output of `scsi_id` for any of its names, called as by libvirt.
    fn id(&self) -> String {
        let script = "for name; do
            /lib/udev/scsi_id --replace-whitespace --whitelisted --device \"$name\"; done";
        let names: Vec<_> = self.names().collect();
        let said = self.vm.run(&[&["sh", "-euc", script, "sh"], &names[..]].concat()).ok();
        let mut ids = said.lines();
        let id = ids.next().unwrap();
        assert!(ids.all(|other| other == id), "{said}");
        id.to_owned()
    }

    /// A lock by one name is a lock by all names, with one lock file.
    fn is_one(&self, directory: &str, key: &str) {
        let lock_file = format!("{directory}/{key}");
        let names: Vec<_> = self.names().collect();
        for name in &names {
            let found = self.vm.json(&["vmlockctl", "--json", "resolve", name]);
            assert_eq!(found["lock-file"], lock_file, "{found}");
            assert_eq!(found["lock-files"].as_array().map(Vec::len), Some(1), "{found}");
        }
        let (first, others) = names.split_first().unwrap();
        for (held, refused_by) in [(first, others), (&names[names.len() - 1], &names[..1])] {
            lock(self.vm, held);
            assert_eq!(listed(self.vm, directory), format!("{key}\n"), "{held}");
            for name in refused_by {
                let told = refused(self.vm, name);
                assert!(told.contains("is locked exclusively by VM \"web1\""), "{told}");
            }
            unlock(self.vm);
        }
    }
}

fn lock(vm: &Vm, name: &str) {
    vm.run(&["vmlockctl", "lock", "--name", "web1", name]).ok();
}

fn unlock(vm: &Vm) {
    vm.run(&["vmlockctl", "unlock", "web1"]).ok();
}

/// Requests a held disk for another VM, and returns the refusal.
fn refused(vm: &Vm, name: &str) -> String {
    let ran = vm.run(&["vmlockctl", "lock", "--name", "web2", "--in-use", name]);
    assert_eq!(ran.status.code(), Some(75), "{name}: {ran:?}");
    ran.stderr
}

/// Checks that a free disk is refused to a VM because the host itself uses it.
fn in_use(vm: &Vm, name: &str, by: &str) {
    let told = vm.run(&["vmlockctl", "lock", "--name", "web2", name]).refused();
    assert!(told.contains(&format!("this host uses it ({by})")), "{told}");
}

fn listed(vm: &Vm, directory: &str) -> String {
    vm.run(&["ls", "-A", directory]).ok()
}

fn directly(vm: &Vm, disk: &Disk<'_>) {
    lock(vm, &disk.links[0]);
    for name in disk.names() {
        refused(vm, name);
    }
    unlock(vm);
}

/// `scsi_id` says of a part what it says of the disk, so that is what other hosts lock.
fn a_part_has_the_lock_file_of_its_disk(vm: &Vm, disk: &Disk<'_>) {
    vm.run(&["addpart", &disk.node, "1", "2048", "8192"]).ok();
    let part = Disk::named(vm, &format!("/dev/disk/by-id/wwn-{WWN:#x}-part1"));
    assert_eq!(part.id(), disk.id());
    part.is_one(SCSI, &disk.id());
    lock(vm, &part.node);
    let told = refused(vm, &disk.node);
    assert!(told.contains(&format!("through {}, which lies on it", part.node)), "{told}");
    unlock(vm);
}

fn a_volume_and_its_disk(vm: &Vm, volume: &Disk<'_>, disk: &Disk<'_>) {
    let (lv, pv) = ("/dev/vg/lv", disk.node.as_str());
    in_use(vm, pv, &format!("a part of {} (vg-lv)", volume.node));
    for (first, second, remark) in [(lv, pv, ", which lies on it"), (pv, lv, ", on which it lies")]
    {
        vm.run(&["vmlockctl", "lock", "--name", "web1", "--in-use", first]).ok();
        let told = refused(vm, second);
        assert!(told.contains("by VM \"web1\""), "{told}");
        assert!(told.contains(&format!("through {first}{remark}")), "{told}");
        unlock(vm);
    }
}

fn a_mounted_disk_is_refused(vm: &Vm, disk: &Disk<'_>) {
    vm.run(&["mkdir", "/srv/mounted"]).ok();
    vm.run(&["mount", &disk.node, "/srv/mounted"]).ok();
    for name in disk.names() {
        in_use(vm, name, "mounted on /srv/mounted");
    }
    vm.run(&["umount", "/srv/mounted"]).ok();
    lock(vm, &disk.node);
    unlock(vm);
}

#[test]
#[ignore = "takes a virtual machine: make test-vm"]
fn a_disk_is_one_by_any_of_its_names_and_its_lock_file_is_called_as_libvirt_calls_it() {
    let Some(tree) = Tree::here() else { return };
    let [first, second, third] = ["first", "second", "third"].map(|name| tree.image(name, 16));
    let machine = VmBuilder::new("host-a").disk(&first, "VMLOCK-0001", None);
    let machine = machine.disk(&second, "VMLOCK-0002", Some(WWN));
    let vm = &machine.disk(&third, "VMLOCK-0003", None).boot(&tree);
    let of_serial = |number| format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_VMLOCK-000{number}");
    let [serial, pv] = [1, 3].map(|number| Disk::named(vm, &of_serial(number)));
    let wwn = Disk::named(vm, &format!("/dev/disk/by-id/wwn-{WWN:#x}"));
    vm.run(&["modprobe", "scsi_debug", "dev_size_mb=8"]).ok();
    vm.script(&format!(
        "vgcreate --quiet vg {0} && lvcreate --quiet --yes --name lv --extents 100%FREE vg
        mkfs.ext4 -q -U 26ad1bbf-4d03-4a63-a10a-15a41e61d1f8 /dev/vg/lv",
        pv.node
    ));

    vm.enable();
    directly(vm, &wwn);
    vm.run(&["mkdir", "-p", "-m", "700", VOLUMES, SCSI]).ok();
    vm.write("/etc/vmlockd/vmlockd.toml", CONFIG);
    vm.systemctl(&["reload", "vmlockd"]);

    assert_eq!(serial.id(), "0QEMU_QEMU_HARDDISK_VMLOCK-0001");
    assert_eq!(wwn.id(), format!("3{WWN:x}"));
    let pretended = Disk::named(vm, "/dev/disk/by-id/scsi-33333333000000fa0");
    for disk in [&serial, &wwn, &pretended] {
        disk.is_one(SCSI, &disk.id());
    }

    a_part_has_the_lock_file_of_its_disk(vm, &wwn);

    // The link by what is on it comes last.
    let volume = Disk::named(vm, "/dev/disk/by-uuid/26ad1bbf-4d03-4a63-a10a-15a41e61d1f8");
    for name in ["/dev/vg/lv", "/dev/mapper/vg-lv", "/dev/disk/by-id/dm-name-vg-lv"] {
        assert!(volume.links.iter().any(|link| link == name), "{name} in {:?}", volume.links);
    }
    let uuid = |link: &String| link.starts_with("/dev/disk/by-id/dm-uuid-LVM-");
    assert!(volume.links.iter().any(uuid), "{:?}", volume.links);
    let uuid = vm.run(&["lvs", "--noheadings", "-o", "uuid", "vg/lv"]).ok();
    volume.is_one(VOLUMES, uuid.trim());

    a_volume_and_its_disk(vm, &volume, &pv);
    a_mounted_disk_is_refused(vm, &volume);
    assert_eq!(listed(vm, VOLUMES) + &listed(vm, SCSI), "");
}
