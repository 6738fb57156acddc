//! `metrics`: the service's metrics.

mod openmetrics;

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

use clap::Args;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::terminal::output::{Form, print};
use crate::client::Options;
use crate::lock::printable::shown_path;

const AFTER_HELP: &str = "\
The format is OpenMetrics 1.0, which Prometheus reads. For the textfile collector \
of its node exporter, run this from a timer:
  vmlockctl metrics --output \\
      /var/lib/prometheus/node-exporter/vmlockd.prom";

/// The arguments of `metrics`.
#[derive(Debug, Args)]
#[command(
    about = "Print service metrics in OpenMetrics (Prometheus) format",
    after_help = AFTER_HELP
)]
pub(crate) struct Arguments {
    /// Write to this file, which is replaced atomically; '-' is standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints the metrics, or writes them to a file.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let manager = link.manager().await?;
    let metrics = manager.get_metrics(Options::new()).await?;
    let text = match form {
        Form::Json => json::document(&json::object(&metrics)),
        Form::Text => openmetrics::text(&metrics, &manager.version().await?),
    };
    match arguments.output {
        None => print(&text)?,
        Some(path) if path.as_os_str() == "-" => print(&text)?,
        Some(path) => replace(&path, &text)
            .map_err(|error| Error::system(&format!("write {}", shown_path(&path)), error))?,
    }
    Ok(Code::SUCCESS)
}

/// Atomically replaces a file by one with this text that all users can read.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::IsADirectory.into()) };
    // Beside it, since only there it can be renamed; hidden, and without the ending by which
    // collectors know what is for them.
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}", process::id()));
    let aside = path.with_file_name(aside);
    let written = write(&aside, text).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // What was wrong before is what is told.
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // Left behind by one that was killed, and had the same number.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
    // Whatever the umask of a timer is.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlockd.prom");
        fs::write(&path, "old").unwrap();
        let before = File::open(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(io::read_to_string(before).unwrap(), "old");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        replace(&folder, "new").unwrap_err();
        replace(Path::new("/"), "new").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
