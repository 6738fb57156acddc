//! Who decides about permissions on the private bus.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use super::{
    Bus, NameWatch,
    mock_polkit::Mock,
    process::{Process, mortal},
};

/// polkit's name on the bus.
pub(crate) const NAME: &str = "org.freedesktop.PolicyKit1";

/// The project's own actions: what the tests run against is what is installed.
const ACTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/polkit/org.vmlockd1.policy");

/// Where distributions put polkitd.
const PROGRAMS: [&str; 3] =
    ["/usr/lib/polkit-1/polkitd", "/usr/libexec/polkit-1/polkitd", "/usr/libexec/polkitd"];

/// Which polkit a house has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// None: nobody answers.
    #[default]
    None,
    /// The distribution's polkitd with our actions and these rules, in polkit's JavaScript. In
    /// them, `@DIR@` stands for the house's directory.
    Real { rules: String },
    /// One that does as the test says; [`super::Answer::Deny`] until it says otherwise.
    Mock,
}

/// The polkit of a house.
#[derive(Debug)]
pub(crate) enum Polkit {
    None,
    Real(Real),
    Mock(Mock),
}

impl Polkit {
    pub(super) async fn start(choice: Choice, bus: &Arc<Bus>, dir: &Path) -> Polkit {
        match choice {
            Choice::None => Polkit::None,
            Choice::Real { rules } => Polkit::Real(Real::start(bus, dir, &rules).await),
            Choice::Mock => Polkit::Mock(Mock::start(bus).await),
        }
    }

    /// The scripted one, in a house that has it.
    pub(crate) fn mock(&self) -> &Mock {
        let Polkit::Mock(mock) = self else { panic!("this house has no mock polkit") };
        mock
    }

    /// The real one, in a house that has it.
    pub(crate) fn real(&self) -> &Real {
        let Polkit::Real(real) = self else { panic!("this house has no real polkit") };
        real
    }
}

/// The distribution's polkitd.
pub(crate) struct Real {
    process: Process,
}

impl std::fmt::Debug for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "polkitd, process {}", self.process.pid())
    }
}

impl Real {
    /// Starts polkitd on `bus`, with its files in `dir`, and waits until it answers.
    pub(crate) async fn start(bus: &Arc<Bus>, dir: &Path, rules: &str) -> Real {
        let program = PROGRAMS.into_iter().find(|path| Path::new(path).exists());
        let program = program.unwrap_or_else(|| panic!("no polkitd here (install polkitd)"));
        let (share, etc) = (dir.join("share"), dir.join("etc"));
        for dir in [share.join("actions"), share.join("rules.d"), etc.join("rules.d")] {
            fs::create_dir_all(&dir).expect("a directory for polkit");
        }
        let actions = fs::read_to_string(ACTIONS).unwrap_or_else(|e| panic!("{ACTIONS}: {e}"));
        let action_file = share.join("actions/org.vmlockd1.policy");
        fs::write(&action_file, actions).expect("a file in our directory");
        let rule_file = etc.join("rules.d/50-test.rules");
        fs::write(&rule_file, rules).expect("a file in our directory");
        for file in [action_file, rule_file] {
            // polkitd reads them as a user of its own.
            fs::set_permissions(file, Permissions::from_mode(0o644)).expect("the file is ours");
        }
        // Its directories are compiled in, so it gets a file system where ours are in their place.
        let mut command = mortal(None, "unshare");
        command.args(["--mount", "--propagation=private", "--", "sh", "-euc"]);
        command.arg(
            r#"mount --bind "$1" /usr/share/polkit-1
               mount --bind "$2" /etc/polkit-1
               exec "$3" >&2"#,
        );
        command.arg("polkitd").args([share, etc]).arg(program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
        let process = Process::start("polkitd", command, &dir.join("log"));
        let mut watch = NameWatch::new(&bus.connection().await, NAME).await;
        tokio::select! {
            () = watch.owned_by(process.pid()) => Real { process },
            status = process.ended() => panic!("polkitd ends ({status}): {}", process.stderr()),
        }
    }

    /// What it has logged: its own words and what rules say with `polkit.log`.
    pub(crate) fn log(&self) -> String {
        self.process.stderr()
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}
