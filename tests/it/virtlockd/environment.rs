//! Where a question is asked: a directory, two machines, and a way to the server.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::Process;
use crate::fixture::rpc::{Owner, Rpc};

/// The environment of a row.
pub(super) struct Environment {
    dir: PathBuf,
    socket: PathBuf,
    /// From where the server's relative names lead.
    folder: PathBuf,
    /// The processes of the machines. They know nothing of it: virtlockd kills those that do.
    machines: [Process; 2],
    made: RefCell<BTreeSet<PathBuf>>,
}

impl Environment {
    /// A new directory, and machines that live as long as the place.
    pub(super) fn new(dir: &Path, socket: &Path, folder: &Path) -> Environment {
        fs::create_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let machine = |name: &str| {
            let mut command = Command::new("sleep");
            command.arg("infinity");
            Process::start(name, command, Path::new("/dev/null"))
        };
        let machines = ["web1", "web2"].map(machine);
        let (dir, socket, folder) = (dir.to_owned(), socket.to_owned(), folder.to_owned());
        Environment { dir, socket, folder, machines, made: RefCell::default() }
    }

    /// A connection that has said nothing yet.
    pub(super) fn connect(&self) -> Rpc {
        Rpc::connect(&self.socket).expect("the socket is open")
    }

    /// The first machine.
    pub(super) fn web1(&self) -> Owner {
        Owner::new("web1", 1, self.machines[0].pid())
    }

    /// The second machine.
    pub(super) fn web2(&self) -> Owner {
        Owner::new("web2", 2, self.machines[1].pid())
    }

    /// A connection in the name of the first machine.
    pub(super) fn vm(&self) -> Rpc {
        let mut rpc = self.connect();
        rpc.register(&self.web1()).granted();
        rpc
    }

    /// A connection in the name of the second machine.
    pub(super) fn other(&self) -> Rpc {
        let mut rpc = self.connect();
        rpc.register(&self.web2()).granted();
        rpc
    }

    /// A name in the directory, of what the row itself makes.
    pub(super) fn made(&self, name: &str) -> String {
        let path = self.dir.join(name);
        self.made.borrow_mut().insert(path.clone());
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Returns the path of a name in the directory, which is not created.
    pub(super) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A disk.
    pub(super) fn disk(&self, name: &str) -> String {
        let path = self.made(name);
        File::create_new(&path).expect("the directory is ours").set_len(4096).expect("a size");
        path
    }

    /// A directory.
    pub(super) fn folder(&self, name: &str) -> String {
        let path = self.made(name);
        fs::create_dir(&path).expect("the directory is ours");
        path
    }

    /// Whether there is something in the server's folder.
    pub(super) fn in_folder(&self, name: &str) -> String {
        there(self.folder.join(name))
    }

    /// A text with what is known here in the place of its name.
    pub(super) fn fill_in(&self, text: &str) -> String {
        let text = text.replace("@DIR@", self.dir.to_str().expect("UTF-8"));
        let [web1, web2] = self.machines.each_ref().map(|machine| machine.pid().to_string());
        text.replace("@WEB1@", &web1).replace("@WEB2@", &web2)
    }

    /// Ends the machines, and with them all that is theirs.
    pub(super) fn end_machines(&mut self) {
        for machine in &self.machines {
            machine.signal(nix::sys::signal::Signal::SIGKILL);
            machine.end();
        }
    }

    /// Returns the files that the row has not created, and the missing ones.
    pub(super) fn difference(&self) -> Vec<PathBuf> {
        let mut found = BTreeSet::new();
        find(&self.dir, &mut found);
        found.symmetric_difference(&self.made.borrow()).cloned().collect()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // The directory that it is in goes later in any case.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether there is such a file.
pub(super) fn there(path: impl AsRef<Path>) -> String {
    if path.as_ref().symlink_metadata().is_ok() { "there" } else { "not there" }.to_owned()
}

fn find(directory: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the directory is ours") {
        let entry = entry.expect("the directory is ours");
        if entry.file_type().expect("a type").is_dir() {
            find(&entry.path(), into);
        }
        into.insert(entry.path());
    }
}
