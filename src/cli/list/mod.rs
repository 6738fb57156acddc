//! `list`: prints the locks of all owners, or some of them.
//!
//! [`owners`] and [`waiting`] are the commands of the same names, and [`watch`] is the option
//! `--watch` of all three.

pub(crate) mod owners;
pub(crate) mod waiting;
pub(crate) mod watch;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsString;

use clap::Args;
use nix::unistd::User;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Alignment, Table};
use crate::cli::list::watch::{Page, WatchOption};
use crate::cli::target::lookup;
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::OutputFormat;
use crate::client::{Row, lists};
use crate::lock::text::escape::shown;

const AFTER_HELP: &str = "\
Without arguments, all locks are listed. With targets, the locks on these disks \
under any of their names, these locks, and the locks of these owners are listed.";

/// List locks
#[derive(Debug, Args)]
#[command(after_help = target::help(AFTER_HELP))]
pub(crate) struct Arguments {
    /// List only locks of this owner, or of the owner that holds this lock or disk
    #[arg(long, value_name = "OWNER|LOCK|PATH")]
    owner: Option<OsString>,
    /// List only locks of this user, given by name or number
    #[arg(long, value_name = "USER", value_parser = parse_user)]
    user: Option<u32>,
    /// Disks, locks or owners
    #[arg(value_name = "PATH|LOCK|OWNER")]
    targets: Vec<OsString>,
    #[command(flatten)]
    watch: WatchOption,
}

/// Parses a user, given by name or number.
fn parse_user(text: &str) -> Result<u32, String> {
    if let Ok(Some(user)) = User::from_name(text) {
        return Ok(user.uid.as_raw());
    }
    text.parse().map_err(|_| "there is no such user".to_owned())
}

/// The filter of the list.
#[derive(Debug)]
pub(crate) struct Filter {
    owner: Option<Target>,
    user: Option<u32>,
    targets: Vec<Target>,
}

impl Arguments {
    /// Whether the list is printed again after each change.
    pub(crate) fn watches(&self) -> bool {
        self.watch.is_wanted()
    }

    /// Parses the targets.
    pub(crate) fn filter(self) -> Result<Filter, Error> {
        let targets = self.targets.into_iter().map(Target::parse).collect::<Result<_, _>>()?;
        let owner = self.owner.map(Target::parse).transpose()?;
        Ok(Filter { owner, user: self.user, targets })
    }
}

impl Filter {
    /// Returns the locks that match, oldest first.
    pub(crate) async fn locks(&self, service: &ServiceConnection) -> Result<Vec<Row>, Error> {
        let mut owners = Vec::new();
        let names_owner = |target: &Target| matches!(target, Target::Owner(_));
        if self.targets.iter().any(names_owner) {
            owners = lists::owners(&service.manager().await?).await?;
        }
        let path_of = |text: &str| -> Result<String, Error> {
            Ok(row::text(lookup::owner(&owners, text, service.uid)?, "owner").to_owned())
        };
        let owner = match &self.owner {
            Some(target) => Some(row::text(&target.owner(service).await?, "owner").to_owned()),
            None => None,
        };
        // Object paths of locks and owners.
        let mut named = HashSet::new();
        for target in &self.targets {
            match target {
                Target::Lock(number) => {
                    let lock = target::lock(service, *number).await?;
                    named.insert(row::text(&lock, "lock").to_owned());
                }
                Target::Owner(text) => drop(named.insert(path_of(text)?)),
                Target::Path(path) => {
                    let holders = lookup::holders(service, path).await?;
                    named.extend(holders.iter().map(|row| row::text(row, "lock").to_owned()));
                }
            }
        }
        let mut locks = service.locks().await?;
        locks.retain(|lock| {
            let (path, owner_of_lock) = (row::text(lock, "lock"), row::text(lock, "owner"));
            owner.as_deref().is_none_or(|owner| owner == owner_of_lock)
                && self.user.is_none_or(|uid| row::number(lock, "uid") == u64::from(uid))
                && (self.targets.is_empty()
                    || named.contains(path)
                    || named.contains(owner_of_lock))
        });
        Ok(locks)
    }

    /// Returns the text for an empty list.
    async fn empty_message(&self, service: &ServiceConnection) -> Result<Cow<'static, str>, Error> {
        if self.is_empty() {
            return Ok("no locks".into());
        }
        for target in self.owner.iter().chain(&self.targets) {
            let Target::Owner(_) = target else { continue };
            let owner = target.owner(service).await?;
            if row::text(&owner, "state") == "suspended" {
                let locks = service.suspended_locks(&owner).await?.len();
                let locks = row::lock_count(u64::try_from(locks).unwrap_or(u64::MAX));
                let text = format!("{} is suspended; it remembers {locks}", row::vm(&owner));
                return Ok(shown(&text).into());
            }
        }
        Ok("no such locks".into())
    }

    fn is_empty(&self) -> bool {
        self.owner.is_none() && self.user.is_none() && self.targets.is_empty()
    }
}

/// Prints the locks.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let watch = arguments.watch;
    let filter = arguments.filter()?;
    let read = async || {
        let locks = filter.locks(service).await?;
        Ok(match format {
            OutputFormat::Json => Page::Json(json::objects(&locks)),
            OutputFormat::Text if locks.is_empty() => {
                Page::Empty(filter.empty_message(service).await?)
            }
            OutputFormat::Text => Page::Table(table(&locks).to_string()),
        })
    };
    watch.print_list(service, read).await
}

fn table(locks: &[Row]) -> Table<9> {
    let mut table = Table::new([
        ("LOCK", Alignment::Right),
        ("MODE", Alignment::Left),
        // Printed only if a lock needs attention.
        ("STATE", Alignment::Left),
        ("RESOURCE", Alignment::Left),
        ("VM", Alignment::Left),
        ("OWNER", Alignment::Left),
        ("USER", Alignment::Left),
        ("PID", Alignment::Right),
        ("SINCE", Alignment::Left),
    ]);
    for lock in locks {
        let word = |key| row::text(lock, key).to_owned();
        table.push([
            row::lock_number(lock),
            word("mode"),
            row::lock_state(lock).to_owned(),
            word("resource"),
            word("name"),
            row::short_uuid(lock),
            row::user(lock),
            row::pid(lock),
            row::since(lock),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_a_number() {
        assert_eq!(parse_user("root"), Ok(0));
        assert_eq!(parse_user("65000"), Ok(65000));
        parse_user("no such user").unwrap_err();
    }
}
