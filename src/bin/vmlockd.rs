//! The service: reads the command line and the environment, and runs.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use vmlockd::bus::Bus;
use vmlockd::config::ConfigFile;
use vmlockd::daemon::{self, Options};
use vmlockd::inspector::worker;
use vmlockd::keep::stash::inherited::VARIABLE;
use vmlockd::keep::state_file;
use vmlockd::lock::descriptor::passed::write_type;
use vmlockd::lock::disk::loop_device::{Device, write_status};
use vmlockd::lock::presence::keeper;
use vmlockd::lock::selftest::run;
use vmlockd::lock::text::escape::reason;
use vmlockd::rlimit::{self, Requirements};
use vmlockd::service::io::mount_probe::stand;

/// Lock service for the disks of virtual machines.
// The doc comments are the help text, which has no backticks.
#[allow(clippy::doc_markdown)]
#[derive(Debug, Parser)]
#[command(name = "vmlockd", version)]
struct Args {
    /// Use the system bus (the default for root)
    #[arg(long, conflicts_with = "session")]
    system: bool,
    /// Use the session bus of the calling user, and serve this user only (the default for other
    /// users)
    #[arg(long)]
    session: bool,
    /// Read this configuration file instead of /etc/vmlockd/vmlockd.toml on the system bus, or of
    /// $XDG_CONFIG_HOME/vmlockd/vmlockd.toml on the session bus; the file must exist
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Use this runtime directory instead of $RUNTIME_DIRECTORY, or, if that is not set, of
    /// /run/vmlockd on the system bus and $XDG_RUNTIME_DIR/vmlockd on the session bus
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Serve libvirt on this socket, given by its absolute path, in place of virtlockd; the default
    /// on the session bus is $XDG_RUNTIME_DIR/libvirt/virtlockd-sock
    #[arg(long, value_name = "PATH")]
    virtlockd_socket: Option<PathBuf>,
    /// Have other processes inspected through this socket, given by its absolute path; if nothing
    /// listens there, a child process of the service is used
    #[arg(long, value_name = "PATH")]
    inspector_socket: Option<PathBuf>,
    /// Exit when there has been no owner and no client of virtlockd's socket for this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Read this configuration file, print the first error in it, and exit
    #[arg(long, value_name = "FILE", exclusive = true)]
    check_config: Option<PathBuf>,
    /// Read the state in this runtime directory, print what is wrong with it, and exit; nothing is
    /// changed
    #[arg(long, value_name = "DIR", exclusive = true)]
    check_state: Option<PathBuf>,
    /// Print the state in this runtime directory as lines of JSON, and exit; nothing is changed
    #[arg(long, value_name = "DIR", exclusive = true)]
    dump_state: Option<PathBuf>,
    /// Print the backing files of these loop devices, and exit. The service runs this in another
    /// process, since it may hang.
    #[arg(long, value_name = "MAJOR:MINOR", num_args = 1.., exclusive = true, hide = true)]
    loop_status: Vec<Device>,
    /// Print the type of a file's file system, and exit. The service runs this in another process
    /// for a file that a caller passed, since its file system may not respond.
    #[arg(long, value_name = "FILE", exclusive = true, hide = true)]
    file_system_type: Option<PathBuf>,
    /// Probe the file system of each path from standard input, each ended by NUL, until the end of
    /// standard input. The service runs this in another process, since it may hang.
    #[arg(long = "sentinel", exclusive = true, hide = true)]
    mount_probe: bool,
    /// Keep a host's file locked in a lockspace until the end of standard input, which contains the
    /// id and the record of the host.
    #[arg(long, value_name = "DIR", exclusive = true, hide = true)]
    keep_host: Option<PathBuf>,
}

/// The exit code for a wrong command line, as in vmlockctl (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// The minimum resources of the service. Each lock and each anchor needs one more descriptor.
const REQUIREMENTS: Requirements =
    Requirements { descriptors: 32, memory: 64 << 20, stack: 1 << 20 };

fn main() -> ExitCode {
    rlimit::raise(REQUIREMENTS);
    rlimit::block_file_size_signal();
    if let Err(error) = rlimit::check_stack(REQUIREMENTS) {
        eprintln!("vmlockd: {error}");
        return ExitCode::FAILURE;
    }
    start()
}

/// Runs the program. Not inlined, since the parser of the arguments needs a large stack frame.
#[inline(never)]
fn start() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = run::main(&arguments).or_else(|| worker::main(&arguments)) {
        return code;
    }
    let ran = match Args::try_parse_from(arguments) {
        Ok(args) => run(args),
        Err(error) if error.use_stderr() => {
            // A failure to write to standard error cannot be reported anywhere.
            let _ = error.print();
            return ExitCode::from(USAGE);
        }
        // The text of --help or --version.
        Err(error) => error
            .print()
            .and_then(|()| io::stdout().flush())
            .map_err(|error| format!("cannot write to standard output: {}", reason(&error))),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("vmlockd: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), String> {
    if let Some(path) = args.check_config {
        let source = ConfigFile { path, required: true };
        return source.load().map(drop).map_err(|error| error.to_string());
    }
    if !args.loop_status.is_empty() {
        let written = write_status(&args.loop_status, io::stdout());
        return written.map_err(|error| error.to_string());
    }
    if let Some(file) = args.file_system_type {
        return write_type(&file, std::io::stdout()).map_err(|error| error.to_string());
    }
    if args.mount_probe {
        return stand(io::stdin(), io::stdout()).map_err(|error| error.to_string());
    }
    if let Some(lockspace) = args.keep_host {
        let (input, output) = (io::stdin(), io::stdout());
        return keeper::run(&lockspace, input, output).map_err(|error| error.to_string());
    }
    // Inherited descriptors may have used up the limit. The program that this one replaces has
    // checked the limits before, with '--check-state'.
    if std::env::var_os(VARIABLE).is_none() {
        rlimit::check(REQUIREMENTS).map_err(|error| error.to_string())?;
    }
    if let Some(directory) = args.check_state {
        let contents = state_file::read(&directory).map_err(|error| error.to_string())?;
        if contents.damaged() > 0 {
            let (records, disks) = (contents.damaged(), contents.suspects.len());
            eprintln!(
                "vmlockd: {records} damaged records; locks with a stored descriptor would be kept, \
                 otherwise the {disks} disks and leases that damaged records still name"
            );
        }
        return Ok(());
    }
    if let Some(directory) = args.dump_state {
        let dumped = state_file::dump::write(&directory, BufWriter::new(io::stdout().lock()));
        return dumped.map_err(|error| error.to_string());
    }
    let root = rustix::process::geteuid().is_root();
    let bus = if args.system || (root && !args.session) { Bus::System } else { Bus::Session };
    let config = match (args.config, bus) {
        (Some(path), _) => ConfigFile { path, required: true },
        (None, Bus::System) => {
            ConfigFile { path: "/etc/vmlockd/vmlockd.toml".into(), required: false }
        }
        (None, Bus::Session) => {
            let parent =
                directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")));
            let parent = parent.ok_or("neither XDG_CONFIG_HOME nor HOME is set; use --config")?;
            ConfigFile { path: parent.join("vmlockd/vmlockd.toml"), required: false }
        }
    };
    let given = args.runtime_dir.or_else(|| directory("RUNTIME_DIRECTORY"));
    let runtime_dir = match (given, bus) {
        (Some(path), _) => path,
        (None, Bus::System) => "/run/vmlockd".into(),
        (None, Bus::Session) => directory("XDG_RUNTIME_DIR")
            .ok_or("XDG_RUNTIME_DIR is not set; use --runtime-dir")?
            .join("vmlockd"),
    };
    let default_socket = match bus {
        // virtlockd's own socket unit may be listening there.
        Bus::System => None,
        Bus::Session => {
            directory("XDG_RUNTIME_DIR").map(|runtime| runtime.join("libvirt/virtlockd-sock"))
        }
    };
    let virtlockd_socket = absolute("--virtlockd-socket", args.virtlockd_socket)?;
    let inspector_socket = absolute("--inspector-socket", args.inspector_socket)?;
    let timeout = args.timeout.map(Duration::from_secs);
    let options = Options {
        bus,
        config,
        runtime_dir,
        virtlockd_socket,
        default_socket,
        inspector_socket,
        timeout,
    };
    daemon::run(&options).map_err(|error| error.to_string())
}

/// Checks that the path of an option is absolute.
fn absolute(option: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, String> {
    match path {
        Some(path) if path.is_relative() => {
            Err(format!("{option}: {} is not an absolute path", path.display()))
        }
        path => Ok(path),
    }
}

/// Returns a directory from the environment. Relative paths are ignored, as the XDG specification
/// requires.
fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
