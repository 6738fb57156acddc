//! The service on a machine of its own.

use super::{Machine, Tree, Vm};

/// A lock that another machine is refused; what is said to it comes back.
fn refused(vm: &Vm, disk: &str) -> String {
    let ran = vm.run(&["vmlockctl", "lock", "--name", "web2", disk]);
    assert_eq!(ran.status.code(), Some(75), "{ran:?}");
    ran.stderr
}

#[test]
#[ignore = "takes a virtual machine: make test-vm"]
fn what_is_installed_locks_a_disk() {
    let Some(tree) = Tree::here() else { return };
    let vm = Machine::new("host-a").boot(&tree);
    assert_eq!(vm.property("ActiveState"), "inactive");
    vm.enable();
    assert_eq!(vm.property("ActiveState"), "active");
    vm.script("mkdir /srv/images && truncate -s 1M /srv/images/disk");
    vm.run(&["vmlockctl", "lock", "--name", "web1", "/srv/images/disk"]).ok();
    let told = refused(&vm, "/srv/images/disk");
    assert!(told.contains("is locked exclusively by VM \"web1\""), "{told}");
    // The kernel says so, too.
    assert!(vm.run(&["cat", "/proc/locks"]).ok().contains("OFDLCK"));
    vm.run(&["vmlockctl", "unlock", "web1"]).ok();
    vm.run(&["vmlockctl", "lock", "--name", "web2", "/srv/images/disk"]).ok();
    assert!(vm.journal().contains("web2"), "{}", vm.journal());
}

/// Disks say who they are, and are the same by whatever name.
#[test]
#[ignore = "takes a virtual machine: make test-vm"]
fn a_disk_of_its_own_is_locked_by_any_of_its_names() {
    const WWN: u64 = 0x5000_c500_a1b2_c3d4;
    let Some(tree) = Tree::here() else { return };
    let [first, second] = ["first", "second"].map(|name| tree.image(name, 16));
    let machine = Machine::new("host-a").disk(&first, "VMLOCK-0001", None);
    let vm = machine.disk(&second, "VMLOCK-0002", Some(WWN)).boot(&tree);
    let by_id = format!("/dev/disk/by-id/wwn-{WWN:#x}");
    let serial = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_VMLOCK-0001";
    vm.run(&["udevadm", "wait", &by_id, serial]).ok();
    let id = ["/lib/udev/scsi_id", "--replace-whitespace", "--whitelisted", "--device"];
    assert_eq!(vm.run(&[&id[..], &[serial]].concat()).ok(), "0QEMU_QEMU_HARDDISK_VMLOCK-0001\n");
    assert_eq!(vm.run(&[&id[..], &[&by_id]].concat()).ok(), format!("3{WWN:x}\n"));

    vm.enable();
    vm.run(&["vmlockctl", "lock", "--name", "web1", &by_id]).ok();
    let node = vm.run(&["readlink", "-f", &by_id]).ok();
    refused(&vm, &by_id);
    refused(&vm, node.trim());
    vm.run(&["vmlockctl", "lock", "--name", "web2", serial]).ok();
}
