//! The properties of a virtual machine.

use std::{path::Path, process::Stdio};

use serde_json::json;

use super::{Network, Qmp, Tree, Vm};
use crate::fixture::{Process, mortal};

/// The kernel command line: nothing that slows down an emulated processor, network interface names
/// without their slot, and no panic when the timer is late, as it is on a busy host.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 selinux=0 apparmor=0 audit=0 \
    mitigations=off nokaslr norandmaps tsc=reliable no_timer_check systemd.unit=multi-user.target \
    systemd.show_status=no";

/// A machine that is not there yet.
pub(crate) struct VmBuilder {
    name: String,
    memory: u32,
    words: Vec<String>,
    on: Option<u32>,
}

impl VmBuilder {
    /// One with nothing special.
    pub(crate) fn new(name: &str) -> VmBuilder {
        VmBuilder { name: name.to_owned(), memory: 384, words: Vec::new(), on: None }
    }

    /// With so much memory, in megabytes.
    pub(crate) fn memory(mut self, megabytes: u32) -> VmBuilder {
        self.memory = megabytes;
        self
    }

    /// With a SCSI disk, which says this when it is asked who it is; other machines may have the
    /// same one.
    pub(crate) fn disk(mut self, path: &Path, serial: &str, wwn: Option<u64>) -> VmBuilder {
        if !self.words.iter().any(|word| word.starts_with("virtio-scsi")) {
            self.add("-device", "virtio-scsi-pci,id=scsi".to_owned());
        }
        let number = self.words.len();
        self.add(
            "-blockdev",
            format!("file,node-name=disk{number},locking=off,filename={}", path.display()),
        );
        let wwn = wwn.map(|wwn| format!(",wwn={wwn:#x}")).unwrap_or_default();
        self.add("-device", format!("scsi-hd,drive=disk{number},share-rw=on,serial={serial}{wwn}"));
        self
    }

    /// On a wire.
    pub(crate) fn on(mut self, wire: &Network) -> VmBuilder {
        let (words, number) = wire.end();
        self.words.extend(words);
        self.on = Some(number);
        self
    }

    fn add(&mut self, option: &str, value: String) {
        self.words.extend([option.to_owned(), value]);
    }

    /// Switches it on; others can be, while it boots.
    pub(crate) fn start(self, tree: &Tree) -> Vm {
        let (name, dir) = (self.name, tree.dir());
        let console = dir.join(format!("{name}.console"));
        let mut command = mortal(None, "qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-action", "reboot=shutdown"]);
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-name", &name]);
        command.args(["-m", &self.memory.to_string()]);
        command.arg("-kernel").arg(tree.kernel()).arg("-initrd").arg(tree.initrd());
        command.args(["-append", &format!("{KERNEL} systemd.hostname={name}")]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        // Its driver is built into the kernel. Writes go to a file without a name.
        let disk = tree.disk();
        let root = format!("if=none,id=root,format=raw,snapshot=on,file={}", disk.display());
        command.args(["-drive", &root, "-device", "nvme,drive=root,serial=root"]);
        command.env("TMPDIR", dir);
        // Both end with the process at the other end.
        let (control, stdin) = Qmp::new(&format!("QEMU of {name}"));
        let (agent, stdout) = Qmp::new(&format!("the agent on {name}"));
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout));
        command.args(["-chardev", "socket,id=control,fd=0"]);
        command.args(["-mon", "chardev=control,mode=control"]);
        command.args(["-chardev", "socket,id=agent,fd=1", "-device", "virtio-serial-pci"]);
        command
            .args(["-device", "virtserialport,id=agent,chardev=agent,name=org.qemu.guest_agent.0"]);
        command.args(self.words);

        let log = dir.join(format!("{name}.log"));
        let process = Process::start(&format!("QEMU of {name}"), command, &log);
        // It answers when all its devices are there, and so the ends of wires for others.
        control.ask("qmp_capabilities", &json!({}));
        Vm { name, number: self.on, agent, control, process, console }
    }

    /// Switches it on, and waits until it has booted.
    pub(crate) fn boot(self, tree: &Tree) -> Vm {
        let vm = self.start(tree);
        vm.booted();
        vm
    }
}
