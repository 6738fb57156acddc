//! `lockspace`: directories of leases, and the leases in them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use zbus::fdo::IntrospectableProxy;
use zbus::{ObjectPath, OwnedObjectPath, Variant};

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Lean, Table};
use crate::cli::target::disk::{self, as_lease};
use crate::cli::terminal::output::{Form, print};
use crate::client::{LOCKSPACES_PATH, Options, Row};
use crate::lock::printable::shown_path;

const LOCKSPACE: &str = "org.vmlockd1.Lockspace";

const AFTER_HELP: &str = "\
A lease is a file in a lockspace, which is a directory. A lock on it stands for a \
right, such as the right of a VM to run on one of several hosts. libvirt's <lease> \
names the same file: its 'path', 'lockspace' and 'key' are \
lease:PATH/LOCKSPACE/KEY here.

  vmlockctl lockspace create /srv/leases
  vmlockctl lockspace create-lease /srv/leases/web1
  vmlockctl run --lease /srv/leases/web1 -- \\
      qemu-system-x86_64 ...

In a key, write a slash as %2F and a percent sign as %25.";

/// List, create and remove lockspaces and leases
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// List the lockspaces
    List,
    /// Make a directory a lockspace; create the directory if it does not exist
    Create {
        /// The directory
        directory: PathBuf,
    },
    /// Remove a lockspace that is not in use, and its directory, which must be empty
    Remove {
        /// The directory
        directory: PathBuf,
    },
    /// Create a lease; an existing lease is left unchanged
    CreateLease {
        /// The lease
        #[arg(value_name = "DIRECTORY/KEY")]
        lease: OsString,
    },
    /// Remove a lease that is not locked
    RemoveLease {
        /// The lease
        #[arg(value_name = "DIRECTORY/KEY")]
        lease: OsString,
    },
}

impl Arguments {
    /// Whether it only reads.
    pub(crate) fn reads(&self) -> bool {
        matches!(self.deed, Deed::List)
    }
}

/// Lists, creates or removes lockspaces or leases.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let manager = link.manager().await?;
    let manager = manager.inner();
    match arguments.deed {
        Deed::List => list(link, form).await?,
        Deed::Create { directory } => {
            let arguments = (disk::name(bare(&directory))?, Options::new());
            let made: OwnedObjectPath = link.ask(manager, "CreateLockspace", &arguments).await?;
            if form == Form::Json {
                print(&json::document(&json!({ "lockspace": made.as_str() })))?;
            }
        }
        Deed::Remove { directory } => {
            let directory = disk::name(bare(&directory))?;
            let arguments = (directory.as_str(), Options::new());
            match link.ask::<_, ()>(manager, "RemoveLockspace", &arguments).await {
                Err(error) if error.is_no_such_lockspace() => {
                    let directory = shown_path(Path::new(&directory));
                    return Err(Error::Missing(format!("{directory} is not a lockspace")));
                }
                removed => removed?,
            }
        }
        Deed::CreateLease { lease } => {
            let arguments = (disk::name(Path::new(&as_lease(lease)))?, Options::new());
            link.ask::<_, ()>(manager, "CreateLease", &arguments).await?;
        }
        Deed::RemoveLease { lease } => {
            let arguments = (disk::name(Path::new(&as_lease(lease)))?, Options::new());
            link.ask::<_, ()>(manager, "RemoveLease", &arguments).await?;
        }
    }
    Ok(Code::SUCCESS)
}

/// A directory without the slash that shells append to its name.
fn bare(directory: &Path) -> &Path {
    let bytes = directory.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(bytes.len().min(1), |at| at + 1);
    Path::new(OsStr::from_bytes(&bytes[..end]))
}

async fn list(link: &Link, form: Form) -> Result<(), Error> {
    let lockspaces = all(link).await?;
    print(&match form {
        Form::Json => json::document(&json::objects(&lockspaces)),
        Form::Text => text(&lockspaces),
    })
}

/// Returns all lockspaces with their properties, and with their paths under the key `lockspace`.
pub(crate) async fn all(link: &Link) -> Result<Vec<Row>, Error> {
    // The reply of the object manager includes all locks, and may be too large.
    let folder =
        IntrospectableProxy::builder(link.service().await?).destination(link.destination().await?);
    let folder = folder.path(LOCKSPACES_PATH).build().await?.introspect().await?;
    let mut lockspaces = Vec::new();
    for name in children(&folder) {
        let path = ObjectPath::try_from(format!("{LOCKSPACES_PATH}/{name}"))?;
        // Removed meanwhile.
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

/// Returns the names of an object's children, from its introspection data.
fn children(xml: &str) -> impl Iterator<Item = &str> {
    let names = xml.split("<node name=\"").skip(1);
    names.filter_map(|rest| rest.split_once('"').map(|(name, _)| name))
}

/// The sort key of a name: names without a number first, then by number.
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
    fn a_slash_at_the_end_of_a_directory_is_dropped() {
        for (directory, without) in
            [("/a/b//", "/a/b"), ("a", "a"), ("/", "/"), ("", ""), ("//", "/")]
        {
            assert_eq!(bare(Path::new(directory)), Path::new(without));
        }
    }

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
