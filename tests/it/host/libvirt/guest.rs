//! A guest, as it is described to libvirt.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where its emulator is: QEMU, which does not lock its images itself.
pub(super) const EMULATOR: &str = "/srv/qemu-without-locks";

/// How a guest uses a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Alone.
    Own,
    /// Together with others who say the same.
    Shareable,
    /// It does not write it.
    ReadOnly,
}

/// A small machine that runs nothing.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) uuid: String,
    disks: Vec<(PathBuf, Use)>,
    /// The format of its images.
    format: &'static str,
    lease: Option<(PathBuf, String)>,
}

impl Guest {
    /// A guest without disks. Its name ends with a digit; no other one on its host has the same.
    pub(super) fn new(name: &str) -> Guest {
        let digit = name.chars().last().filter(char::is_ascii_digit).expect("a name with a number");
        let uuid = format!("4dea22b3-1d52-d8f3-2516-78{}", digit.to_string().repeat(10));
        Guest { name: name.to_owned(), uuid, disks: Vec::new(), format: "raw", lease: None }
    }

    /// A guest with one disk.
    pub(super) fn on(name: &str, disk: &Path) -> Guest {
        Guest::new(name).with(disk, Use::Own)
    }

    /// Returns the guest with another disk.
    pub(super) fn with(mut self, disk: &Path, how: Use) -> Guest {
        self.disks.push((disk.to_owned(), how));
        self
    }

    /// Returns the guest with images that support snapshots.
    pub(super) fn in_qcow2(mut self) -> Guest {
        self.format = "qcow2";
        self
    }

    /// Returns the guest with a lease: the file `key` of a lockspace, which is a directory.
    pub(super) fn with_lease(mut self, lockspace: &Path, key: &str) -> Guest {
        self.lease = Some((lockspace.to_owned(), key.to_owned()));
        self
    }

    /// Its description.
    pub(super) fn xml(&self) -> String {
        let mut devices = String::new();
        for (number, (path, how)) in self.disks.iter().enumerate() {
            let letter = char::from(b'a' + u8::try_from(number).expect("a few disks"));
            let how = match how {
                Use::Own => "",
                Use::Shareable => "<shareable/>",
                Use::ReadOnly => "<readonly/>",
            };
            writeln!(
                devices,
                "<disk type='file' device='disk'><driver name='qemu' type='{}'/>\
                 <source file='{}'/><target dev='vd{letter}' bus='virtio'/>{how}</disk>",
                self.format,
                path.display()
            )
            .expect("strings grow");
        }
        if let Some((lockspace, key)) = &self.lease {
            // libvirt puts the two parts together.
            let (above, name) = (lockspace.parent().unwrap(), lockspace.file_name().unwrap());
            writeln!(
                devices,
                "<lease><lockspace>{}</lockspace><key>{key}</key><target path='{}'/></lease>",
                name.display(),
                above.display()
            )
            .expect("strings grow");
        }
        // The USB is for disks that come and go: it takes no operating system to let one go.
        format!(
            "<domain type='qemu'>
               <name>{}</name><uuid>{}</uuid><memory unit='MiB'>16</memory>
               <os><type arch='x86_64' machine='pc'>hvm</type></os>
               <devices>
                 <emulator>{EMULATOR}</emulator>
                 <controller type='usb' model='piix3-uhci'/>
                 <memballoon model='none'/>
                 {devices}
               </devices>
             </domain>
             ",
            self.name, self.uuid
        )
    }
}
