//! `metrics`: prints the metrics of the service.

mod openmetrics;

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::terminal::output::{OutputFormat, print};
use crate::client::Options;
use crate::lock::text::escape::shown_path;

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
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let manager = service.manager().await?;
    let metrics = manager.get_metrics(Options::new()).await?;
    let text = match format {
        OutputFormat::Json => json::document(&json::object(&metrics)),
        OutputFormat::Text => openmetrics::text(&metrics, &manager.version().await?),
    };
    match arguments.output {
        None => print(&text)?,
        Some(path) if path.as_os_str() == "-" => print(&text)?,
        Some(path) => replace_file(&path, &text)
            .map_err(|error| Error::system(&format!("write {}", shown_path(&path)), error))?,
    }
    Ok(Exit::SUCCESS)
}

/// Atomically replaces a file by one with this text that all users may read.
fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::IsADirectory.into()) };
    // In the same directory, so that it can be renamed; hidden, and without the extension of the
    // files that the collector reads.
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}", process::id()));
    let aside = path.with_file_name(aside);
    let written = write_file(&aside, text).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    // A killed process with the same PID may have left this file.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
    // Regardless of the umask.
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
        replace_file(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(io::read_to_string(before).unwrap(), "old");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        replace_file(&folder, "new").unwrap_err();
        replace_file(Path::new("/"), "new").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
