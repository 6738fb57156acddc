//! The service on a machine of its own.

use super::{Tree, Vm, VmBuilder};

/// A lock that another machine is refused; what is said to it comes back.
fn refused(vm: &Vm, disk: &str) -> String {
    let ran = vm.run(&["vmlockctl", "lock", "--name", "web2", disk]);
    assert_eq!(ran.status.code(), Some(75), "{ran:?}");
    ran.stderr
}

#[test]
#[ignore = "takes a virtual machine: make test-vm"]
fn the_installed_programs_lock_a_disk() {
    let Some(tree) = Tree::here() else { return };
    let vm = VmBuilder::new("host-a").boot(&tree);
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
