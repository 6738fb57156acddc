//! Candidates for the completion of command lines: the scripts of the shells run this tool with the
//! words so far.
//!
//! Subcommands and options are completed from the definition of the command line. Owners, locks and
//! locked disks are read from the service, which is not activated for this. If the service does not
//! reply in time, they are omitted. Errors are not reported, since the user is editing a line.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use clap::{Arg, Command, ValueHint};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::cli::connection::{ServiceConnection, runtime};
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::row;
use crate::client::{Bus, Options, Row, lists};
use crate::lock::text::escape::shown;

/// The environment variable with the name of the shell.
pub(crate) const VARIABLE: &str = "_VMLOCKCTL_COMPLETE";
/// The timeout of a completion.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The part of it for the reply of the service.
const SERVICE_TIMEOUT: Duration = Duration::from_millis(700);

/// Prints the candidates for the word at the cursor. Returns `None` if the caller is not a
/// completion script.
pub(crate) fn main(arguments: &[OsString], command: fn() -> Command) -> Option<Exit> {
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
            // The receiver may have timed out.
            let _ = done.send(text);
        }
    };
    // The thread is not joined, since it hangs if a directory is on unresponsive storage.
    let started = runtime::spawn_thread(complete);
    let text = started.ok().and_then(|_| completed.recv_timeout(TIMEOUT).ok()).unwrap_or_default();
    let mut out = io::stdout().lock();
    let _ = out.write_all(&text).and_then(|()| out.flush());
    Some(Exit::SUCCESS)
}

/// Returns the output format for a shell.
fn shell(name: &str) -> Option<&'static dyn EnvCompleter> {
    match name {
        "bash" => Some(&Bash),
        "zsh" => Some(&Zsh),
        "fish" => Some(&Fish),
        _ => None,
    }
}

/// Adds the completion of commands to `help`.
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

/// Adds the completion of values to the arguments of a command and its subcommands.
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
    let kinds: Vec<ValueKind> = name.split('|').filter_map(ValueKind::named).collect();
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

/// The kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    /// An owner, by its name or UUID.
    Owner,
    /// A lock, by its number.
    Lock,
    /// A locked disk, or any file.
    Disk,
    /// Any file.
    File,
}

impl ValueKind {
    /// Returns the kind for the name of an argument in the help.
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
            Self::Owner => owners(&service_objects().owners, current),
            Self::Lock => locks(&service_objects().locks, current),
            Self::Disk => {
                disks(&service_objects().locks, current).into_iter().chain(files()).collect()
            }
            Self::File => files(),
        }
    }
}

/// Returns a candidate, unless it does not begin with the current word, or could control the
/// terminal.
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

/// The owners and locks of the service.
#[derive(Debug, Default)]
struct ServiceObjects {
    owners: Vec<Row>,
    locks: Vec<Row>,
}

/// Returns the owners and locks of the service, which are read once; none if the service does not
/// reply in time.
fn service_objects() -> &'static ServiceObjects {
    static OBJECTS: OnceLock<ServiceObjects> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        let (done, answered) = mpsc::channel();
        let ask = move || {
            if let Some(objects) =
                runtime::event_loop().ok().and_then(|runtime| runtime.block_on(query()).ok())
            {
                let _ = done.send(objects);
            }
        };
        let started = runtime::spawn_thread(ask);
        let objects = started.ok().and_then(|_| answered.recv_timeout(SERVICE_TIMEOUT).ok());
        objects.unwrap_or_default()
    })
}

async fn query() -> Result<ServiceObjects, Error> {
    let service =
        ServiceConnection::connect(bus_from_arguments(env::args_os())).await?.without_activation();
    let manager = service.manager().await?;
    let owners = lists::owners(&manager).await?;
    let locks = lists::locks(&manager, Options::new()).await?;
    Ok(ServiceObjects { owners, locks })
}

/// Returns the bus that the command line selects.
fn bus_from_arguments(words: impl Iterator<Item = OsString>) -> Bus {
    let line = words.skip_while(|word| word != "--").skip(1).take_while(|word| word != "--");
    let mut bus = Bus::of(rustix::process::geteuid().as_raw());
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
    fn values_that_begin_with_the_current_word_are_candidates() {
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
    fn the_command_line_selects_the_bus() {
        let bus = |line: &str| bus_from_arguments(line.split(' ').map(OsString::from));
        assert_eq!(bus("vmlockctl -- vmlockctl show --session"), Bus::Session);
        assert_eq!(bus("vmlockctl -- vmlockctl --system show "), Bus::System);
        assert_eq!(bus("vmlockctl --session -- vmlockctl run -- --session"), bus("vmlockctl"));
    }
}
