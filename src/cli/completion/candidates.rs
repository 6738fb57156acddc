//! Completion of command lines: the shells' scripts run this tool with what was typed so far.
//!
//! The words of the command line are known from its definition. Owners, locks and disks that are locked
//! are asked of the service, if it runs: it is not started for that. An answer that does not come in
//! time is left out, and nothing is said of errors: the user is in the middle of a line.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use clap::{Arg, Command, ValueHint};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::cli::STACK;
use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::row;
use crate::client::{Bus, Options, Row, lists};
use crate::lock::printable::shown;

/// Says which shell asks for completions.
pub(crate) const VARIABLE: &str = "_VMLOCKCTL_COMPLETE";
/// How long a completion may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How long the service may take of that.
const SERVICE_LIMIT: Duration = Duration::from_millis(700);

/// Prints what the word at the cursor may become; `None` if no shell asks for it.
pub(crate) fn main(arguments: &[OsString], command: fn() -> Command) -> Option<Code> {
    let name = env::var(VARIABLE).ok()?;
    shell(&name)?;
    let words = arguments.iter().skip_while(|word| *word != "--").skip(1);
    let words: Vec<OsString> = words.cloned().collect();
    let (done, completed) = mpsc::channel();
    let complete = move || {
        let (mut command, mut text) = (with_values(with_commands(command())), Vec::new());
        let here = env::current_dir().ok();
        if !words.is_empty()
            && let Some(shell) = shell(&name)
            && shell.write_complete(&mut command, words, here.as_deref(), &mut text).is_ok()
        {
            // The receiver may have stopped waiting.
            let _ = done.send(text);
        }
    };
    // A thread of its own, which is left behind: a directory may be on storage that does not answer.
    let started = thread::Builder::new().stack_size(STACK).spawn(complete);
    let text = started.ok().and_then(|_| completed.recv_timeout(LIMIT).ok()).unwrap_or_default();
    let mut out = io::stdout().lock();
    let _ = out.write_all(&text).and_then(|()| out.flush());
    Some(Code::SUCCESS)
}

/// What a shell of this name expects.
fn shell(name: &str) -> Option<&'static dyn EnvCompleter> {
    match name {
        "bash" => Some(&Bash),
        "zsh" => Some(&Zsh),
        "fish" => Some(&Fish),
        _ => None,
    }
}

/// Adds to `help` the commands that it explains.
fn with_commands(command: Command) -> Command {
    let verbs: Vec<String> = command.get_subcommands().map(|it| it.get_name().to_owned()).collect();
    let candidates = move |current: &OsStr| -> Vec<CompletionCandidate> {
        let current = current.to_string_lossy();
        let verbs = verbs.iter().filter(|verb| verb.starts_with(&*current));
        verbs.map(CompletionCandidate::new).collect()
    };
    let completer = ArgValueCompleter::new(candidates);
    command.mut_subcommand("help", |help| help.mut_arg("commands", |arg| arg.add(completer)))
}

/// Adds to a command and its subcommands what the names of their arguments stand for.
fn with_values(command: Command) -> Command {
    let verbs: Vec<String> = command.get_subcommands().map(|it| it.get_name().to_owned()).collect();
    let command = verbs.into_iter().fold(command, |it, verb| it.mut_subcommand(verb, with_values));
    command.mut_args(|arg| {
        let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        match name {
            Some(name) => with_value(arg, &name),
            None => arg,
        }
    })
}

fn with_value(arg: Arg, name: &str) -> Arg {
    if name == "COMMAND" && arg.is_last_set() {
        return arg.value_hint(ValueHint::CommandWithArguments);
    }
    let kinds: Vec<Kind> = name.split('|').filter_map(Kind::named).collect();
    if kinds.is_empty() {
        return arg;
    }
    arg.add(ArgValueCompleter::new(move |current: &OsStr| {
        let mut candidates: Vec<CompletionCandidate> =
            kinds.iter().flat_map(|kind| kind.candidates(current)).collect();
        let mut seen = BTreeSet::new();
        candidates.retain(|candidate| seen.insert(candidate.get_value().to_owned()));
        candidates
    }))
}

/// What an argument stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An owner: its name or UUID.
    Owner,
    /// A lock: its number.
    Lock,
    /// A disk that may be locked.
    Disk,
    /// A file that is to be locked, or another one.
    File,
}

impl Kind {
    /// Reads the name of an argument as the help prints it.
    fn named(name: &str) -> Option<Self> {
        match name {
            "OWNER" => Some(Self::Owner),
            "LOCK" => Some(Self::Lock),
            "PATH" => Some(Self::Disk),
            "PATH[:MODE]"
            | "DIRECTORY"
            | "DISK"
            | "FILE"
            | "DIRECTORY/KEY"
            | "DIRECTORY/KEY[:MODE]" => Some(Self::File),
            _ => None,
        }
    }

    fn candidates(self, current: &OsStr) -> Vec<CompletionCandidate> {
        let files = || PathCompleter::any().complete(current);
        let Some(current) = current.to_str() else {
            return if matches!(self, Self::Disk | Self::File) { files() } else { Vec::new() };
        };
        match self {
            Self::Owner => owners(&known().owners, current),
            Self::Lock => locks(&known().locks, current),
            Self::Disk => disks(&known().locks, current).into_iter().chain(files()).collect(),
            Self::File => files(),
        }
    }
}

/// A value, unless it does not begin with what was typed, or could play with the terminal.
fn candidate(value: &str, current: &str, help: &str) -> Option<CompletionCandidate> {
    let fits = !value.is_empty() && value.starts_with(current) && shown(value) == value;
    fits.then(|| CompletionCandidate::new(value).help(Some(shown(help).into())))
}

fn owners(owners: &[Row], current: &str) -> Vec<CompletionCandidate> {
    let names = owners.iter().map(|owner| (row::text(owner, "name"), row::text(owner, "uuid")));
    let both = names.clone().chain(names.map(|(name, uuid)| (uuid, name)));
    both.filter_map(|(value, help)| candidate(value, current, help)).collect()
}

fn locks(locks: &[Row], current: &str) -> Vec<CompletionCandidate> {
    let one = |lock: &Row| {
        let help = format!("{} ({})", row::text(lock, "resource"), row::text(lock, "name"));
        candidate(&row::lock_number(lock), current, &help)
    };
    locks.iter().filter_map(one).collect()
}

fn disks(locks: &[Row], current: &str) -> Vec<CompletionCandidate> {
    let one = |lock: &Row| {
        let help = format!("locked by {}", row::text(lock, "name"));
        candidate(row::text(lock, "resource"), current, &help)
    };
    locks.iter().filter_map(one).collect()
}

/// What the service knows.
#[derive(Debug, Default)]
struct Known {
    owners: Vec<Row>,
    locks: Vec<Row>,
}

/// Asks the service, once; what is not answered in time is empty.
fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let (done, answered) = mpsc::channel();
        let ask = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Some(known) = runtime.ok().and_then(|runtime| runtime.block_on(ask()).ok()) {
                let _ = done.send(known);
            }
        };
        let started = thread::Builder::new().stack_size(STACK).spawn(ask);
        let known = started.ok().and_then(|_| answered.recv_timeout(SERVICE_LIMIT).ok());
        known.unwrap_or_default()
    })
}

async fn ask() -> Result<Known, Error> {
    let link = Link::open_private(bus(env::args_os())).await?.into_running();
    let manager = link.manager().await?;
    let owners = lists::owners(&manager).await?;
    let locks = lists::locks(&manager, Options::new()).await?;
    Ok(Known { owners, locks })
}

/// Which bus the command line says.
fn bus(words: impl Iterator<Item = OsString>) -> Bus {
    let line = words.skip_while(|word| word != "--").skip(1).take_while(|word| word != "--");
    let mut bus = Bus::of(nix::unistd::geteuid().as_raw());
    for word in line {
        match word.to_str() {
            Some("--system") => bus = Bus::System,
            Some("--session") => bus = Bus::Session,
            _ => {}
        }
    }
    bus
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn row(entries: &[(&str, &'static str)]) -> Row {
        let owned = |text: &'static str| OwnedVariant::try_from(Variant::from(text)).unwrap();
        entries.iter().map(|(key, text)| ((*key).to_owned(), owned(text))).collect()
    }

    fn values(candidates: &[CompletionCandidate]) -> Vec<&str> {
        candidates.iter().map(|candidate| candidate.get_value().to_str().unwrap()).collect()
    }

    #[test]
    fn what_begins_as_typed_is_a_candidate() {
        let rows = [
            row(&[("name", "web1"), ("uuid", "4dea"), ("resource", "/srv/a"), ("lock", "7")]),
            row(&[("name", "w\u{1b}b2"), ("uuid", "9"), ("resource", "/srv/b\n")]),
        ];
        assert_eq!(values(&owners(&rows, "")), ["web1", "4dea", "9"]);
        assert_eq!(values(&owners(&rows, "4d")), ["4dea"]);
        assert_eq!(values(&disks(&rows, "/srv/")), ["/srv/a"]);
        assert_eq!(values(&locks(&rows, "")), ["7"]);
    }

    #[test]
    fn the_command_line_says_which_bus() {
        let bus = |line: &str| bus(line.split(' ').map(OsString::from));
        assert_eq!(bus("vmlockctl -- vmlockctl show --session"), Bus::Session);
        assert_eq!(bus("vmlockctl -- vmlockctl --system show "), Bus::System);
        assert_eq!(bus("vmlockctl --session -- vmlockctl run -- --session"), bus("vmlockctl"));
    }
}
