//! The output of `vmlockctl doctor` for NFS mounts, by export and mount options.
//!
//! Server and host are one machine here: whether other hosts are refused cannot be determined from
//! one of them, and is shown in [`super::between`].

use std::time::Instant;

use serde_json::Value;

use crate::vm::{PATIENCE, Tree, Vm, VmBuilder};

const PLACE: &str = "/mnt/nas";

/// The mount options and the source; the expected exit code, the self-test result, and words in the
/// message.
const CASES: [(&str, &str, i32, &str, &str); 8] = [
    ("vers=4.2", "shared", 0, "shared", "every host that mounts it"),
    ("vers=4.0", "shared", 0, "shared", "every host that mounts it"),
    // It warns that the server keeps locks for ever.
    ("vers=3", "shared", 78, "shared", "every host that mounts it"),
    ("vers=3,nolock", "shared", 78, "not-shared", "mount option 'nolock' keeps locks local"),
    ("vers=4.2,ro", "shared", 1, "unusable", "it is mounted read-only"),
    ("vers=4.2", "fixed", 1, "unusable", "read-only"),
    ("vers=4.2", "squashed", 1, "unusable", "'root_squash'"),
    // It warns whose the files are.
    ("vers=4.2", "squashed/open", 78, "shared", "every host that mounts it"),
];

#[test]
#[ignore = "takes a virtual machine: make test-vm"]
fn a_doctor_knows_how_it_is_exported_and_mounted() {
    let Some(tree) = Tree::here() else { return };
    let vm = &VmBuilder::new("server").boot(&tree);
    vm.write("/etc/nfs.conf", "[nfsd]\nthreads=2\nlease-time=20\ngrace-time=20\n");
    vm.script(&format!(
        "cd /srv
        mkdir -m 755 {PLACE} shared fixed squashed
        mkdir -m 1777 squashed/open
        echo '/srv/shared *(rw,no_root_squash,no_subtree_check)
            /srv/fixed *(ro,no_root_squash,no_subtree_check)
            /srv/squashed *(rw,root_squash,no_subtree_check)' >/etc/exports
        echo options lockd nlm_timeout=3 nlm_grace_period=3 >/etc/modprobe.d/lockd.conf
        ip link set lo up
        systemctl start rpcbind rpc-statd nfs-server"
    ));
    for (options, export, code, result, words) in CASES {
        vm.script(&format!("mount -t nfs -o {options},hard 127.0.0.1:/srv/{export} {PLACE}"));
        let (ended, remarks) = doctor(vm);
        let told = about_result(&remarks);
        assert_eq!(told["about"]["result"], result, "{options} {export}: {remarks:#?}");
        assert!(told["message"].as_str().unwrap().contains(words), "{told:#}");
        assert_eq!(ended, code, "{options} {export}: {remarks:#?}");
        // Nothing is left behind.
        let left = if export == "squashed" { "open\n" } else { "" };
        let since = Instant::now();
        while vm.run(&["ls", "-A", PLACE]).ok() != left {
            assert!(since.elapsed() < PATIENCE, "{options} {export}");
        }
        vm.run(&["umount", PLACE]).ok();
    }
}

/// Returns its output with the exit code once the self-test has a result: on a busy host that may
/// take longer than the command waits.
fn doctor(vm: &Vm) -> (i32, Vec<Value>) {
    let since = Instant::now();
    loop {
        let ran = vm.run(&["vmlockctl", "--json", "doctor", PLACE]);
        let remarks: Vec<Value> =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
        if about_result(&remarks)["about"]["result"] != "untested" || since.elapsed() > PATIENCE {
            return (ran.status.code().unwrap(), remarks);
        }
    }
}

fn about_result(remarks: &[Value]) -> &Value {
    remarks.iter().find(|remark| remark["check"] == "result").unwrap()
}
