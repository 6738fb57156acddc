//! Detects common mistakes in arguments, and suggests the correct form.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::format::duration::TimeLimit;
use crate::cli::target::disk_name::LEASE_PREFIX;
use crate::lock::Mode;
use crate::lock::text::escape::shown_path;

/// The prefixes of QEMU's names of disks that are not on a file system of this host.
const NETWORK: [&str; 19] = [
    "ftp:",
    "ftps:",
    "gluster:",
    "gluster+tcp:",
    "gluster+unix:",
    "http:",
    "https:",
    "iscsi:",
    "nbd:",
    "nbd+unix:",
    "nfs:",
    "rbd:",
    "sheepdog:",
    "ssh:",
    "vxhs:",
    "nvme:",
    "archipelago:",
    "iser:",
    "ceph:",
];
/// Prefixes of other QEMU names, which may contain the name of a file.
const SPELLINGS: [&str; 3] = ["json:", "file:", "host_device:"];

/// Common spellings of modes.
const MODES: [(&str, Mode); 15] = [
    ("ro", Mode::Shared),
    ("r", Mode::Shared),
    ("read", Mode::Shared),
    ("readonly", Mode::Shared),
    ("read-only", Mode::Shared),
    ("share", Mode::Shared),
    ("sh", Mode::Shared),
    ("shared", Mode::Shared),
    ("rw", Mode::Exclusive),
    ("w", Mode::Exclusive),
    ("write", Mode::Exclusive),
    ("ex", Mode::Exclusive),
    ("excl", Mode::Exclusive),
    ("exclusive", Mode::Exclusive),
    ("exclusively", Mode::Exclusive),
];

/// File name extensions of disk images.
const IMAGES: [&str; 6] = ["qcow2", "raw", "img", "vmdk", "vdi", "iso"];

/// Checks a path of a disk or lease for common mistakes. An existing file is accepted under any
/// name.
///
/// # Errors
///
/// The mistake and the correct form.
pub(crate) fn check_path(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.starts_with(LEASE_PREFIX.as_bytes()) {
        return match bytes.strip_suffix(b"/") {
            Some(_) => Err(format!(
                "'{}' names a directory; a lease is written lease:DIRECTORY/KEY",
                shown_path(path)
            )),
            None => Ok(()),
        };
    }
    check_network(path)?;
    check_mode(path, false)?;
    check_slash(path)
}

/// Checks a disk to lock, whose path a mode may follow, as [`check_path`] does.
///
/// # Errors
///
/// The mistake and the correct form.
pub(crate) fn check_disk(path: &Path) -> Result<(), String> {
    check_network(path)?;
    check_mode(path, true)?;
    check_slash(path)
}

/// Refuses QEMU's names of disks that are not paths.
///
/// # Errors
///
/// The mistake and the correct form.
pub(crate) fn check_network(path: &Path) -> Result<(), String> {
    let has = |prefix: &&&str| path.as_os_str().as_bytes().starts_with(prefix.as_bytes());
    if let Some(prefix) = NETWORK.iter().find(has).filter(|_| !exists(path)) {
        return Err(format!(
            "'{}' is a network disk of QEMU ('{prefix}'), which has no file to lock; lock a lease in \
             its place, see 'vmlockctl lockspace --help'",
            shown_path(path)
        ));
    }
    if let Some(prefix) = SPELLINGS.iter().find(has).filter(|_| !exists(path)) {
        return Err(format!(
            "'{}' is written as for QEMU ('{prefix}'); give the path of the disk's file or device",
            shown_path(path)
        ));
    }
    Ok(())
}

/// Refuses a misspelt mode, and any mode if the command takes none.
fn check_mode(path: &Path, takes_mode: bool) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    let Some(colon) = bytes.iter().rposition(|byte| *byte == b':') else { return Ok(()) };
    let (before, word) = (&bytes[..colon], String::from_utf8_lossy(&bytes[colon + 1..]));
    // A colon at the end is followed by an empty mode.
    let known = MODES.iter().find(|(known, _)| known.eq_ignore_ascii_case(&word));
    let known = known.or_else(|| word.is_empty().then_some(&("", Mode::Exclusive)));
    let Some((_, mode)) = known.filter(|_| !before.is_empty() && !exists(path)) else {
        return Ok(());
    };
    let before = shown_path(Path::new(OsStr::from_bytes(before)));
    Err(if word.is_empty() && takes_mode {
        format!("'{before}:' ends in a colon without a mode; write '{before}' or '{before}:shared'")
    } else if takes_mode {
        format!(
            "'{word}' is not a mode; modes are 'exclusive' and 'shared': write '{before}:{}'",
            mode.as_str()
        )
    } else {
        format!("only 'lock' and 'run' take a mode; write '{before}'")
    })
}

/// Refuses a path that ends in a slash, which would name a directory.
fn check_slash(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.ends_with(b"/") {
        return Ok(());
    }
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let bare = Path::new(OsStr::from_bytes(&bytes[..end]));
    if end == 0 || fs::metadata(bare).is_ok_and(|found| found.is_dir()) {
        return Err(format!("'{}' is a directory; give the path of a disk", shown_path(path)));
    }
    Err(format!(
        "'{}' ends in a slash, as the name of a directory; for the disk, write '{}'",
        shown_path(path),
        shown_path(bare)
    ))
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Refuses `lock --wait 5 PATH`, in which 5 would be parsed as the path of a disk.
///
/// # Errors
///
/// The mistake and the correct form.
pub(crate) fn check_wait(arguments: &[OsString]) -> Result<(), String> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let Some(subcommand) = subcommand(arguments) else { return Ok(()) };
    for pair in arguments[..end].windows(2) {
        if let (Some("--wait"), Some(limit)) = (pair[0].to_str(), pair[1].to_str())
            && subcommand == "lock"
            && TimeLimit::parse(limit).is_ok()
        {
            return Err(wait_hint(limit));
        }
    }
    Ok(())
}

fn wait_hint(limit: &str) -> String {
    let limit = if limit.contains(' ') { format!("'{limit}'") } else { limit.to_owned() };
    format!("the duration of '--wait' follows an equals sign: write --wait={limit}")
}

/// Returns the subcommand of a command line.
pub(crate) fn subcommand(arguments: &[OsString]) -> Option<&str> {
    let words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    words.into_iter().find(|word| !word.starts_with('-'))
}

/// Returns the hint for a command line that clap refuses, if there is one.
pub(crate) fn for_clap_error(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => word.as_str(),
        _ => return None,
    };
    let at = arguments.iter().position(|argument| argument == unknown)?;
    let before = at.checked_sub(1).and_then(|at| arguments[at].to_str());
    if before == Some("--wait") && TimeLimit::parse(unknown).is_ok() {
        return Some(wait_hint(unknown));
    }
    if subcommand(arguments) != Some("run") || unknown.starts_with('-') {
        return None;
    }
    if let Some(disks) = bare_disks(&arguments[at..]) {
        return Some(format!(
            "every disk of 'run' follows a '--disk' of its own: vmlockctl run … {disks}"
        ));
    }
    let words: Vec<String> =
        arguments[at..].iter().take(3).map(|word| shown_path(Path::new(word))).collect();
    let more = if arguments.len() > at + words.len() { " …" } else { "" };
    Some(format!(
        "the command of 'run' follows two dashes: vmlockctl run … -- {}{more}; every disk needs a \
         '--disk' of its own",
        words.join(" ")
    ))
}

/// Inserts `--disk` before each disk in the rest of a command line of `run` that begins with a disk
/// and has two dashes before the command, such as `a.qcow2 -- true`. Returns `None` for any other
/// rest.
fn bare_disks(rest: &[OsString]) -> Option<String> {
    let dashes = rest.iter().position(|word| word == "--")?;
    is_like_disk(rest.first()?).then_some(())?;
    let shown = |word: &OsString| shown_path(Path::new(word));
    let mut words = Vec::new();
    for (place, word) in rest[..dashes].iter().enumerate() {
        let follows_option = place > 0 && rest[place - 1].as_bytes().starts_with(b"--");
        let disk = is_like_disk(word) && !follows_option;
        words.push(if disk { format!("--disk {}", shown(word)) } else { shown(word) });
    }
    words.extend(rest[dashes..].iter().take(3).map(shown));
    let more = if rest.len() > dashes + 3 { " …" } else { "" };
    Some(words.join(" ") + more)
}

/// Whether a word is the name of an existing file, or looks like the path of a disk.
fn is_like_disk(word: &OsString) -> bool {
    let (path, bytes) = (Path::new(word), word.as_bytes());
    !bytes.starts_with(b"-")
        && (bytes.contains(&b'/')
            || exists(path)
            || path.extension().is_some_and(|end| IMAGES.iter().any(|image| end == *image)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_mode_is_refused_with_the_correct_one() {
        for (text, right) in [
            ("/a.img:ro", "'/a.img:shared'"),
            ("/a.img:rw", "'/a.img:exclusive'"),
            ("a:share", "'a:shared'"),
            ("a:Shared", "'a:shared'"),
            ("a:excl", "'a:exclusive'"),
        ] {
            let hint = check_disk(Path::new(text)).unwrap_err();
            assert!(hint.contains("is not a mode") && hint.ends_with(right), "{hint}");
        }
        for text in ["/dev/disk/by-path/pci-0000:00:1f.2", "/a:b", "/a.img", ":ro"] {
            check_disk(Path::new(text)).unwrap();
        }
        for text in ["/a.img:shared", "/a.img:"] {
            let hint = check_path(Path::new(text)).unwrap_err();
            assert!(hint.ends_with("write '/a.img'"), "{hint}");
        }
        let hint = check_disk(Path::new("/a.img:")).unwrap_err();
        assert!(hint.ends_with("write '/a.img' or '/a.img:shared'"), "{hint}");
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:ro");
        fs::write(&odd, "").unwrap();
        check_disk(&odd).unwrap();
    }

    #[test]
    fn a_network_disk_is_refused_with_the_advice_to_use_a_lease() {
        for text in ["rbd:pool/image", "nbd:localhost:10809", "nbd://host/x", "iscsi://h/t/1"] {
            let hint = check_disk(Path::new(text)).unwrap_err();
            assert!(hint.contains("network disk") && hint.contains("lockspace --help"), "{hint}");
        }
        let hint = check_disk(Path::new("json:{\"driver\":\"qcow2\"}")).unwrap_err();
        assert!(hint.contains("give the path"), "{hint}");
        check_disk(Path::new("./rbd:x")).unwrap();
    }

    #[test]
    fn a_slash_at_the_end_is_refused() {
        let hint = check_disk(Path::new("/none/a.img//")).unwrap_err();
        assert!(hint.ends_with("write '/none/a.img'"), "{hint}");
        let hint = check_disk(Path::new("/usr/")).unwrap_err();
        assert!(hint.contains("is a directory"), "{hint}");
        check_path(Path::new("lease:/a/b")).unwrap();
        check_path(Path::new("lease:/a/")).unwrap_err();
    }

    #[test]
    fn a_duration_after_a_space_is_refused() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["vmlockctl lock --wait 5 a", "vmlockctl --json lock --wait 5min a"] {
            assert!(check_wait(&words(line)).unwrap_err().contains("write --wait=5"), "{line}");
        }
        for line in ["vmlockctl lock --wait a", "vmlockctl lock --wait -- 5", "vmlockctl list"] {
            check_wait(&words(line)).unwrap();
        }
    }
}
