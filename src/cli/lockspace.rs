//! `lockspace`: directories of leases, and the leases in them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use zbus::fdo::IntrospectableProxy;
use zbus::{ObjectPath, OwnedObjectPath, Variant};

use super::code::Code;
use super::disks::{self, as_lease};
use super::error::Error;
use super::link::Link;
use super::output::{Form, print};
use super::table::{Lean, Table};
use super::{json, row};
use crate::client::{LOCKSPACES_PATH, Options, Row};

const LOCKSPACE: &str = "org.vmlockd1.Lockspace";

const AFTER_HELP: &str = "\
A lease is a file in a lockspace, which is a directory: who locks it has what it
stands for, as a machine's right to run on one of several hosts. libvirt's
<lease> names the same: 'path', 'lockspace' and 'key' there are
lease:PATH/LOCKSPACE/KEY here.

  vmlockctl lockspace create /srv/leases
  vmlockctl lockspace create-lease /srv/leases/web1
  vmlockctl run --lease /srv/leases/web1 -- qemu-system-x86_64 ...

A slash in a key is written %2F, a percent sign %25.";

/// Make, list and remove lockspaces and the leases in them
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// List the lockspaces
    List,
    /// Make a directory a lockspace; it is made where it is missing
    Create {
        /// The directory
        directory: PathBuf,
    },
    /// Remove a lockspace that nobody uses, with its directory, in which nothing may be left
    Remove {
        /// The directory
        directory: PathBuf,
    },
    /// Make a lease; one that is there stays as it is
    CreateLease {
        /// The lease
        #[arg(value_name = "DIRECTORY/KEY")]
        lease: OsString,
    },
    /// Remove a lease that nobody holds
    RemoveLease {
        /// The lease
        #[arg(value_name = "DIRECTORY/KEY")]
        lease: OsString,
    },
}

impl Arguments {
    /// Whether it only reads.
    pub(super) fn reads(&self) -> bool {
        matches!(self.deed, Deed::List)
    }
}

/// Lists, creates or removes lockspaces or leases.
pub(super) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let manager = link.manager().await?;
    let manager = manager.inner();
    match arguments.deed {
        Deed::List => list(link, form).await?,
        Deed::Create { directory } => {
            let arguments = (disks::name(&directory)?, Options::new());
            let made: OwnedObjectPath = link.ask(manager, "CreateLockspace", &arguments).await?;
            if form == Form::Json {
                print(&json::document(&json!({ "lockspace": made.as_str() })))?;
            }
        }
        Deed::Remove { directory } => {
            let arguments = (disks::name(&directory)?, Options::new());
            link.ask::<_, ()>(manager, "RemoveLockspace", &arguments).await?;
        }
        Deed::CreateLease { lease } => {
            let arguments = (disks::name(Path::new(&as_lease(lease)))?, Options::new());
            link.ask::<_, ()>(manager, "CreateLease", &arguments).await?;
        }
        Deed::RemoveLease { lease } => {
            let arguments = (disks::name(Path::new(&as_lease(lease)))?, Options::new());
            link.ask::<_, ()>(manager, "RemoveLease", &arguments).await?;
        }
    }
    Ok(Code::SUCCESS)
}

async fn list(link: &Link, form: Form) -> Result<(), Error> {
    let lockspaces = all(link).await?;
    print(&match form {
        Form::Json => json::document(&json::objects(&lockspaces)),
        Form::Text => text(&lockspaces),
    })
}

/// Returns all lockspaces with their properties, and with their paths under the key `lockspace`.
pub(super) async fn all(link: &Link) -> Result<Vec<Row>, Error> {
    // The object manager's reply has all locks as well, and may be too large.
    let folder =
        IntrospectableProxy::builder(link.service().await?).destination(link.destination().await?);
    let folder = folder.path(LOCKSPACES_PATH).build().await?.introspect().await?;
    let mut lockspaces = Vec::new();
    for name in children(&folder) {
        let path = ObjectPath::try_from(format!("{LOCKSPACES_PATH}/{name}"))?;
        // One that has gone meanwhile is none any more.
        let mut properties = match link.properties(&path, LOCKSPACE).await {
            Err(error) if error.is_no_such_object() => continue,
            properties => properties?,
        };
        properties.insert("lockspace".to_owned(), Variant::from(path).try_into()?);
        lockspaces.push(properties);
    }
    lockspaces.sort_by_key(|row: &Row| place(row::text(row, "name")));
    Ok(lockspaces)
}

/// The names of an object's children in its introspection data.
fn children(xml: &str) -> impl Iterator<Item = &str> {
    let names = xml.split("<node name=\"").skip(1);
    names.filter_map(|rest| rest.split_once('"').map(|(name, _)| name))
}

/// Those with a number in the order of these, after those without.
fn place(name: &str) -> (u64, String) {
    let number = name.rsplit('_').next().and_then(|number| number.parse().ok());
    (number.unwrap_or_default(), name.to_owned())
}

fn text(lockspaces: &[Row]) -> String {
    let mut table = Table::new([
        ("LOCKSPACE", Lean::Left),
        ("KIND", Lean::Left),
        ("LOCKS", Lean::Right),
        ("DIRECTORY", Lean::Left),
    ]);
    for lockspace in lockspaces {
        let word = |key| row::text(lockspace, key).to_owned();
        let locks = row::number(lockspace, "n-locks").to_string();
        table.push([word("name"), word("kind"), locks, word("directory")]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_their_names() {
        let xml = "<node>\n  <node name=\"direct\"/>\n  <node name=\"lease_1\"/>\n</node>\n";
        assert_eq!(children(xml).collect::<Vec<_>>(), ["direct", "lease_1"]);
        assert_eq!(children("<node/>").count(), 0);
    }

    #[test]
    fn lockspaces_stand_in_the_order_of_their_numbers() {
        let mut names = ["lease_10", "file", "lease_9", "direct"];
        names.sort_by_key(|name| place(name));
        assert_eq!(names, ["direct", "file", "lease_9", "lease_10"]);
    }
}
