//! An owner with its disks: what `run` and `lock` begin with.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use zbus::{Fd, OwnedObjectPath, Variant};

use crate::cli::acquire::wait;
use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::format::duration::Span;
use crate::cli::target;
use crate::cli::target::disk::{self, Disk, Wanted};
use crate::cli::terminal::slow_reply::{report_slow, report_slow_files};
use crate::client::{Options, OwnerProxy};
use crate::lock::OwnerId;
use crate::lock::on_lost::OnLost;
use crate::lock::owner::{NAME_MAX, parse_uuid};
use crate::lock::printable::shown;
use crate::paths;

/// What an owner is opened with.
#[derive(Debug)]
pub(crate) struct Opening<'o> {
    /// What people call it.
    pub(crate) name: &'o str,
    /// What its locks are for, or empty.
    pub(crate) why: &'o str,
    /// Its UUID; empty: the service makes one.
    pub(crate) uuid: &'o str,
    /// Whether it stays until it is closed.
    pub(crate) manual: bool,
    /// What it shall hold.
    pub(crate) disks: &'o [Disk],
    /// Whether it shall hold block devices also while this host uses them itself.
    pub(crate) in_use: bool,
    /// What becomes of its processes when a lock is lost.
    pub(crate) on_lost: OnLost,
    /// How long it may wait for that, if at all.
    pub(crate) wait: Option<Span>,
}

/// An owner that holds its disks.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where it is.
    pub(crate) path: OwnedObjectPath,
    /// Keeps it alive, unless it stays anyway.
    pub(crate) lifeline: OwnedFd,
}

impl Opening<'_> {
    /// Opens the owner and locks the disks: all of it or nothing.
    pub(crate) async fn open(&self, link: &Link) -> Result<Opened, Error> {
        let opened = match self.attempt(link).await {
            // Nothing is open then.
            Err(error) if link.show_files_after(&error) => self.attempt(link).await,
            opened => opened,
        };
        opened.map_err(|error| self.explain(error))
    }

    /// Puts what this process knows of the disks into a refusal of the service.
    fn explain(&self, error: Error) -> Error {
        if error.is_not_lockable() {
            return self.paths().find_map(disk::directory).unwrap_or(error);
        }
        let Some(holders) = error.refused_disk() else { return error };
        let denial = report_slow_files(self.paths(), || self.disks.iter().find_map(disk::denial));
        let Some(denial) = denial else { return error };
        let holders = if holders.is_empty() { holders } else { format!("; {holders}") };
        let advice = "lock the disk as a user that may write to the file, or as root";
        Error::Answered(format!("{denial}{holders}; {advice}"), error.code())
    }

    async fn attempt(&self, link: &Link) -> Result<Opened, Error> {
        let wanted = self.wanted(link)?;
        let names = wanted.names();
        let at_once = wanted.files.is_empty() && self.wait.is_none();
        let mut options = Options::new();
        if self.manual {
            options.insert("manual", true.into());
        }
        if self.on_lost != OnLost::default() {
            options.insert("on-lost", self.on_lost.as_str().into());
        }
        if !self.why.is_empty() {
            options.insert("why", self.why.into());
        }
        if at_once {
            options.insert("resources", Variant::from(names.as_slice()));
            wanted.say_in_use(&mut options);
        }
        let manager = link.manager().await?;
        let arguments = (self.uuid, self.name, options);
        let asked = link.ask(manager.inner(), "OpenOwner", &arguments);
        let answer = report_slow(self.paths(), asked).await;
        if let Err(error) = &answer
            && self.manual
            && (!error.is_answer() || error.is_end_of_service())
        {
            // It may be open all the same, and nothing else would close it.
            let _ = self.give_up(link).await;
        }
        let (path, lifeline): (OwnedObjectPath, zbus::OwnedFd) = answer?;
        let opened = Opened { path, lifeline: lifeline.into() };
        if at_once {
            return Ok(opened);
        }
        let owner = link.owner(&opened.path).await?;
        let locked = match self.wait {
            None => {
                let asked = ask_for(link, &owner, &wanted, Options::new());
                match report_slow(self.paths(), asked).await {
                    Err(error) if link.show_files_after(&error) => {
                        let wanted = self.wanted(link)?;
                        let asked = ask_for(link, &owner, &wanted, Options::new());
                        report_slow(self.paths(), asked).await
                    }
                    answer => answer,
                }
            }
            Some(span) => wait::lock(link, &owner, self, wanted, span).await,
        };
        match locked {
            Ok(()) => Ok(opened),
            Err(error) => {
                if self.manual {
                    // Otherwise it goes with the lifeline. The first error is the one to tell.
                    let _ = owner.close(Options::new()).await;
                }
                Err(error)
            }
        }
    }
}

impl Opening<'_> {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.disks.iter().map(|disk| disk.path.as_path())
    }

    /// Decides how each disk is asked for, and opens what has to be open.
    pub(crate) fn wanted(&self, link: &Link) -> Result<Wanted, Error> {
        let wanted = report_slow_files(self.paths(), || Wanted::new(link, self.disks));
        Ok(Wanted { in_use: self.in_use, ..wanted? })
    }

    /// Closes the owner again while it waits for its disks: nobody would know of one that stays.
    pub(crate) async fn give_up(&self, link: &Link) -> Result<(), Error> {
        let Ok(uuid) = parse_uuid(self.uuid) else { return Ok(()) };
        let owner = link.owner(&paths::owner(OwnerId::new(link.uid, uuid))).await?;
        Ok(owner.close(Options::new()).await?)
    }
}

/// Asks for disks, for an owner that is there.
pub(crate) async fn ask_for(
    link: &Link,
    owner: &OwnerProxy<'_>,
    wanted: &Wanted,
    mut options: Options<'_>,
) -> Result<(), Error> {
    wanted.say_in_use(&mut options);
    let files: Vec<(Fd<'_>, &str)> =
        wanted.files.iter().map(|(file, mode)| (file.as_fd().into(), *mode)).collect();
    let arguments = (wanted.names(), files, options);
    let _: Vec<OwnedObjectPath> = link.ask(owner.inner(), "AcquireWithFiles", &arguments).await?;
    Ok(())
}

/// Returns the name of an owner that was given none: one that the service accepts and that can be a
/// target.
pub(crate) fn name_after(command: &str) -> String {
    let base = command.rsplit('/').find(|part| !part.is_empty()).unwrap_or("command");
    let base = shown(base);
    let mut name =
        if target::check_name(&base).is_ok() { String::new() } else { "run ".to_owned() };
    for c in base.chars() {
        if name.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// Checks a name for clap: the service accepts it, and it can be a target.
pub(crate) fn check_name(name: &str) -> Result<String, String> {
    crate::lock::owner::check_name(name).map_err(|error| error.to_string())?;
    target::check_name(name).map(|()| name.to_owned())
}

/// A UUID that the service would take, for clap; empty is not one here.
pub(crate) fn check_uuid(uuid: &str) -> Result<String, crate::lock::Error> {
    if uuid.is_empty() {
        return Err(crate::lock::Error::BadUuid(String::new()));
    }
    crate::lock::owner::parse_uuid(uuid).map(|uuid| uuid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_after_commands_are_taken() {
        assert_eq!(name_after("/usr/bin/qemu-system-x86_64"), "qemu-system-x86_64");
        assert_eq!(name_after("./start/"), "start");
        assert_eq!(name_after("a\nb"), "a\\nb");
        assert_eq!(name_after("/srv/16"), "run 16");
        for odd in ["", "/", &"ä".repeat(100), "\u{1b}", "16", "deadbeef", "--x"] {
            check_name(&name_after(odd)).unwrap();
        }
        assert!(check_uuid("").is_err() && check_uuid("web1").is_err());
    }
}
