//! Opens an owner and locks its disks, for `run` and `lock`.

use std::os::fd::OwnedFd;

use zbus::{OwnedObjectPath, Variant};

use crate::cli::acquire::request::{DiskRequest, OpenedDisks};
use crate::cli::acquire::wait;
use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::duration::TimeLimit;
use crate::cli::target;
use crate::cli::target::disk_file;
use crate::cli::terminal::slow_reply::{report_slow, report_slow_files};
use crate::client::{Options, OwnerProxy};
use crate::lock::OwnerId;
use crate::lock::model::input_error::InputError;
use crate::lock::model::loss_action::OnLost;
use crate::lock::model::owner::{NAME_MAX, parse_uuid};
use crate::lock::text::escape::shown;
use crate::paths;

/// The properties of an owner to open, and its disks.
#[derive(Debug)]
pub(crate) struct OwnerRequest<'o> {
    /// The name of the VM.
    pub(crate) name: &'o str,
    /// The purpose of the locks; may be empty.
    pub(crate) why: &'o str,
    /// The UUID. If it is empty, the service generates one.
    pub(crate) uuid: &'o str,
    /// Whether the owner stays open until it is closed explicitly.
    pub(crate) manual: bool,
    /// The disks to lock.
    pub(crate) disks: DiskRequest<'o>,
    /// The action on the processes of the owner when a lock is lost.
    pub(crate) on_lost: OnLost,
    /// The limit on the wait for the disks; `None` if the request does not wait.
    pub(crate) wait: Option<TimeLimit>,
}

/// An open owner that holds its disks.
#[derive(Debug)]
pub(crate) struct OpenedOwner {
    /// The object path.
    pub(crate) path: OwnedObjectPath,
    /// The lifeline, which keeps an owner open that is not `manual`.
    pub(crate) lifeline: OwnedFd,
}

impl OwnerRequest<'_> {
    /// Opens the owner and locks all of its disks. If that fails, no owner stays open.
    pub(crate) async fn open(&self, service: &ServiceConnection) -> Result<OpenedOwner, Error> {
        let opened = match self.attempt(service).await {
            // No owner is open now, so the whole request can be repeated.
            Err(error) if service.sends_descriptors_after(&error) => self.attempt(service).await,
            opened => opened,
        };
        opened.map_err(|error| self.explain(error))
    }

    /// Adds the cause to a refusal of the service, as far as this process can determine it from the
    /// files.
    fn explain(&self, error: Error) -> Error {
        if error.is_not_lockable() {
            return self.disks.paths().find_map(disk_file::directory_error).unwrap_or(error);
        }
        let Some(holders) = error.holders_of_refused_disk() else { return error };
        let denial = || self.disks.disks.iter().find_map(disk_file::open_denial);
        let denial = report_slow_files(self.disks.paths(), denial);
        let Some(denial) = denial else { return error };
        let holders = if holders.is_empty() { holders } else { format!("; {holders}") };
        let advice = "lock the disk as a user that may write to the file, or as root";
        Error::Reworded(format!("{denial}{holders}; {advice}"), error.exit())
    }

    async fn attempt(&self, service: &ServiceConnection) -> Result<OpenedOwner, Error> {
        let disks = self.disks.open(service)?;
        // A request that does not wait and passes no descriptors is sent with `OpenOwner`.
        let locks_with_open = disks.has_only_names() && self.wait.is_none();
        let opened = self.open_owner(service, locks_with_open.then_some(&disks)).await?;
        if locks_with_open {
            return Ok(opened);
        }
        let owner = service.owner(&opened.path).await?;
        let locked = match self.wait {
            None => match self.lock(service, &owner, &disks).await {
                Err(error) if service.sends_descriptors_after(&error) => {
                    self.lock(service, &owner, &self.disks.open(service)?).await
                }
                reply => reply,
            },
            Some(limit) => wait::lock(service, &owner, self.disks, disks, limit).await,
        };
        match locked {
            Ok(()) => Ok(opened),
            Err(error) => {
                if self.manual {
                    // Any other owner ends with its lifeline. The first error is the one to report.
                    let _ = owner.close(Options::new()).await;
                }
                Err(error)
            }
        }
    }

    /// Opens the owner, and locks these disks with the same call.
    async fn open_owner(
        &self,
        service: &ServiceConnection,
        disks: Option<&OpenedDisks>,
    ) -> Result<OpenedOwner, Error> {
        let names = disks.map(OpenedDisks::names).unwrap_or_default();
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
        if let Some(disks) = disks {
            options.insert("resources", Variant::from(names.as_slice()));
            disks.insert_in_use(&mut options);
        }
        let manager = service.manager().await?;
        let arguments = (self.uuid, self.name, options);
        let call = service.call_method(manager.inner(), "OpenOwner", &arguments);
        let reply = report_slow(self.disks.paths(), call).await;
        if let Err(error) = &reply
            && self.manual
            && (!error.is_reply() || error.is_service_gone())
        {
            // The owner may be open all the same, and nothing else would close it.
            let _ = self.close_pending(service).await;
        }
        let (path, lifeline): (OwnedObjectPath, zbus::OwnedFd) = reply?;
        Ok(OpenedOwner { path, lifeline: lifeline.into() })
    }

    async fn lock(
        &self,
        service: &ServiceConnection,
        owner: &OwnerProxy<'_>,
        disks: &OpenedDisks,
    ) -> Result<(), Error> {
        report_slow(self.disks.paths(), disks.acquire(service, owner, Options::new())).await
    }

    /// Closes the owner while it is waiting for its disks, so that it does not stay open unnoticed.
    pub(crate) async fn close_pending(&self, service: &ServiceConnection) -> Result<(), Error> {
        let Ok(uuid) = parse_uuid(self.uuid) else { return Ok(()) };
        let owner = service.owner(&paths::owner(OwnerId::new(service.uid, uuid))).await?;
        Ok(owner.close(Options::new()).await?)
    }
}

/// Returns the default name of the owner of a command. The service accepts it, and it can be a
/// target.
pub(crate) fn name_for_command(command: &str) -> String {
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

/// Checks the argument of `--name`: the service must accept it, and it must be usable as a target.
pub(crate) fn check_name(name: &str) -> Result<String, String> {
    crate::lock::model::owner::check_name(name).map_err(|error| error.to_string())?;
    target::check_name(name).map(|()| name.to_owned())
}

/// Checks the argument of `--uuid`. An empty UUID, for which the service would generate one, is
/// refused.
pub(crate) fn check_uuid(uuid: &str) -> Result<String, InputError> {
    if uuid.is_empty() {
        return Err(InputError::BadUuid(String::new()));
    }
    parse_uuid(uuid).map(|uuid| uuid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_commands_are_valid_names_of_owners() {
        assert_eq!(name_for_command("/usr/bin/qemu-system-x86_64"), "qemu-system-x86_64");
        assert_eq!(name_for_command("./start/"), "start");
        assert_eq!(name_for_command("a\nb"), "a\\nb");
        assert_eq!(name_for_command("/srv/16"), "run 16");
        for odd in ["", "/", &"ä".repeat(100), "\u{1b}", "16", "deadbeef", "--x"] {
            check_name(&name_for_command(odd)).unwrap();
        }
        assert!(check_uuid("").is_err() && check_uuid("web1").is_err());
    }
}
