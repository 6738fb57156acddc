//! `resolve`: what would be locked.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use clap::Args;

use super::code::Code;
use super::disks;
use super::error::Error;
use super::link::Link;
use super::output::{Form, print};
use super::{json, table};
use crate::client::{Options, Row};

/// The keys in the order of the story: from the name to the lock.
const ORDER: [&str; 6] = ["resource", "path", "identity", "lockspace", "lock-file", "lock-files"];

/// Show which file would be locked for a disk, and lock nothing
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A disk image or block device, or a lease (lease:DIRECTORY/KEY)
    path: PathBuf,
}

/// Does it.
pub(super) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let manager = link.manager().await?;
    let by_name = async {
        let name = disks::name(&arguments.path)?;
        let asked = (name.as_str(), Options::new());
        link.ask::<_, Row>(manager.inner(), "Resolve", &asked).await
    };
    let resolution = match by_name.await {
        // From another mount namespace the file can be shown, but not named.
        Err(error) if link.show_files_after(&error) => {
            let file = disks::open_to_ask(&arguments.path).ok_or(error)?;
            manager.resolve_file(file.as_fd().into(), Options::new()).await?
        }
        resolution => resolution?,
    };
    print(&match form {
        Form::Json => json::document(&json::object(&resolution)),
        Form::Text => text(&resolution),
    })?;
    Ok(Code::SUCCESS)
}

fn text(resolution: &Row) -> String {
    let pair = |key: &str| Some((key.to_owned(), json::plain(resolution.get(key)?)));
    table::pairs(&ORDER.into_iter().filter_map(pair).collect::<Vec<_>>())
}
