//! `resolve`: prints which file would be locked for a disk.

use std::ffi::OsString;
use std::os::fd::AsFd as _;

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::format::table;
use crate::cli::target::{self, Target};
use crate::cli::target::{disk_file, disk_name};
use crate::cli::terminal::output::{OutputFormat, print};
use crate::client::{Options, Row};

/// The keys in the order of the output, from the name to the lock file.
const ORDER: [&str; 6] = ["resource", "path", "identity", "lockspace", "lock-file", "lock-files"];

/// Show which file would be locked for a disk, without locking it
#[derive(Debug, Args)]
#[command(after_help = target::help("An owner is resolved if it holds one disk."))]
pub(crate) struct Arguments {
    /// A disk image, block device or lease; or a lock or owner, for its disk
    #[arg(value_name = "PATH|LOCK|OWNER")]
    target: OsString,
}

/// Prints the lock file of a disk.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let paths = Target::parse(arguments.target)?.disks(service).await?;
    let [path] = &paths[..] else {
        return Err(Error::Usage(format!(
            "the owner holds {} disks; give one of them, as 'vmlockctl list' prints it",
            paths.len()
        )));
    };
    let manager = service.manager().await?;
    let by_name = async {
        let name = disk_name::utf8_path(path)?;
        let arguments = (name.as_str(), Options::new());
        service.call_method::<_, Row>(manager.inner(), "Resolve", &arguments).await
    };
    let resolution = match by_name.await {
        // In another mount namespace, the disk is passed as a descriptor.
        Err(error) if service.sends_descriptors_after(&error) => {
            let file = disk_file::open_for_query(path).ok_or(error)?;
            manager.resolve_file(file.as_fd().into(), Options::new()).await?
        }
        resolution => resolution?,
    };
    print(&match format {
        OutputFormat::Json => json::document(&json::object(&resolution)),
        OutputFormat::Text => text(&resolution),
    })?;
    Ok(Exit::SUCCESS)
}

fn text(resolution: &Row) -> String {
    let pair = |key: &str| Some((key.to_owned(), json::plain(resolution.get(key)?)));
    table::pairs(&ORDER.into_iter().filter_map(pair).collect::<Vec<_>>())
}
