//! A private network.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

/// A network of several machines. The first one has the switch, so it must start before the others
/// and outlive them. The machines send datagrams to each other: a machine that reads none, because
/// it is stopped or boots, does not block the others, as it would on a stream.
pub(crate) struct Network {
    ends: u32,
    taken: AtomicU32,
    dir: TempDir,
}

impl Network {
    /// One for so many machines.
    pub(crate) fn new(machines: u32) -> Network {
        let dir = tempfile::Builder::new().prefix("vmlockd-wire-").tempdir();
        let dir = dir.expect("a temporary directory");
        Network { ends: machines - 1, taken: AtomicU32::new(0), dir }
    }

    /// The network address of the machine of this number, which counts from 0.
    pub(crate) fn address(number: u32) -> String {
        format!("10.98.0.{}", number + 1)
    }

    /// Returns the QEMU arguments for the next machine, and its number.
    pub(super) fn end(&self) -> (Vec<String>, u32) {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let mut words = if number == 0 {
            self.switch()
        } else {
            let [machine, switch] = self.sockets(number);
            vec![datagrams("net", &machine, &switch)]
        };
        words = words.into_iter().flat_map(|word| ["-netdev".to_owned(), word]).collect();
        words.push("-device".to_owned());
        words.push(format!("virtio-net-pci,id=nic,netdev=net,mac=52:54:00:98:00:{number:02x}"));
        (words, number)
    }

    fn switch(&self) -> Vec<String> {
        let ends = (1..=self.ends).flat_map(|end| {
            let [machine, switch] = self.sockets(end);
            [
                datagrams(&format!("end{end}"), &switch, &machine),
                format!("hubport,id=port{end},hubid=0,netdev=end{end}"),
            ]
        });
        ends.chain(["hubport,id=net,hubid=0".to_owned()]).collect()
    }

    /// The machine's, and the switch's for it.
    fn sockets(&self, end: u32) -> [PathBuf; 2] {
        ["machine", "switch"].map(|side| self.dir.path().join(format!("{side}{end}")))
    }
}

fn datagrams(name: &str, from: &Path, to: &Path) -> String {
    let (from, to) = (from.display(), to.display());
    format!("dgram,id={name},local.type=unix,local.path={from},remote.type=unix,remote.path={to}")
}
