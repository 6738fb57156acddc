//! Mistakes that are common on the command line, each with the right form.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::format::duration::Span;
use crate::cli::target::disk::LEASE;
use crate::lock::Mode;
use crate::lock::printable::shown_path;

/// How QEMU spells disks that are on no file system of this host.
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
/// Other spellings of QEMU, in which the name of a file may be a part.
const SPELLINGS: [&str; 3] = ["json:", "file:", "host_device:"];

/// What a mode is often called, and which one is meant.
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

/// How the names of disk images end.
const IMAGES: [&str; 6] = ["qcow2", "raw", "img", "vmdk", "vdi", "iso"];

/// Refuses a path that can't be that of a disk or lease, though it may be meant as one. What exists
/// under this very name is let through.
///
/// # Errors
///
/// The mistake and the right form.
pub(crate) fn check_path(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.starts_with(LEASE.as_bytes()) {
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

/// As [`check_path`], for a disk that is to be locked, which may be followed by a mode.
///
/// # Errors
///
/// The mistake and the right form.
pub(crate) fn check_disk(path: &Path) -> Result<(), String> {
    check_network(path)?;
    check_mode(path, true)?;
    check_slash(path)
}

/// Refuses what QEMU spells otherwise than as the path of a file.
///
/// # Errors
///
/// The mistake and the right form.
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

/// Refuses a mode that is none, and, where no mode may follow, one that is.
fn check_mode(path: &Path, takes_mode: bool) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    let Some(colon) = bytes.iter().rposition(|byte| *byte == b':') else { return Ok(()) };
    let (before, word) = (&bytes[..colon], String::from_utf8_lossy(&bytes[colon + 1..]));
    // An empty word is the mode that was left out.
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

/// Refuses a path that ends in a slash: it would name a directory.
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

/// Refuses `lock --wait 5 PATH`, in which 5 would be the path of a disk.
///
/// # Errors
///
/// The mistake and the right form.
pub(crate) fn check_wait(arguments: &[OsString]) -> Result<(), String> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let Some(verb) = verb(arguments) else { return Ok(()) };
    for pair in arguments[..end].windows(2) {
        if let (Some("--wait"), Some(span)) = (pair[0].to_str(), pair[1].to_str())
            && verb == "lock"
            && Span::parse(span).is_ok()
        {
            return Err(wait(span));
        }
    }
    Ok(())
}

fn wait(span: &str) -> String {
    let span = if span.contains(' ') { format!("'{span}'") } else { span.to_owned() };
    format!("the duration of '--wait' follows an equals sign: write --wait={span}")
}

/// The subcommand of a command line.
pub(crate) fn verb(arguments: &[OsString]) -> Option<&str> {
    let words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    words.into_iter().find(|word| !word.starts_with('-'))
}

/// The hint for a command line that clap refuses, if there is one.
pub(crate) fn for_error(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => word.as_str(),
        _ => return None,
    };
    let at = arguments.iter().position(|argument| argument == unknown)?;
    let before = at.checked_sub(1).and_then(|at| arguments[at].to_str());
    if before == Some("--wait") && Span::parse(unknown).is_ok() {
        return Some(wait(unknown));
    }
    if verb(arguments) != Some("run") || unknown.starts_with('-') {
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

/// The rest of a command line of `run` with `--disk` before the disks that it names without, if a
/// disk is what it begins with and the command follows two dashes: `a.qcow2 -- true`.
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

/// Whether a word names an existing file, or looks like the path of a disk.
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
    fn a_wrong_mode_is_told_the_right_one() {
        for (text, right) in [
            ("/a.img:ro", "'/a.img:shared'"),
            ("/a.img:rw", "'/a.img:exclusive'"),
            ("a:share", "'a:shared'"),
            ("a:Shared", "'a:shared'"),
            ("a:excl", "'a:exclusive'"),
        ] {
            let said = check_disk(Path::new(text)).unwrap_err();
            assert!(said.contains("is not a mode") && said.ends_with(right), "{said}");
        }
        for text in ["/dev/disk/by-path/pci-0000:00:1f.2", "/a:b", "/a.img", ":ro"] {
            check_disk(Path::new(text)).unwrap();
        }
        for text in ["/a.img:shared", "/a.img:"] {
            let said = check_path(Path::new(text)).unwrap_err();
            assert!(said.ends_with("write '/a.img'"), "{said}");
        }
        let said = check_disk(Path::new("/a.img:")).unwrap_err();
        assert!(said.ends_with("write '/a.img' or '/a.img:shared'"), "{said}");
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:ro");
        fs::write(&odd, "").unwrap();
        check_disk(&odd).unwrap();
    }

    #[test]
    fn a_network_disk_is_told_to_take_a_lease() {
        for text in ["rbd:pool/image", "nbd:localhost:10809", "nbd://host/x", "iscsi://h/t/1"] {
            let said = check_disk(Path::new(text)).unwrap_err();
            assert!(said.contains("network disk") && said.contains("lockspace --help"), "{said}");
        }
        let said = check_disk(Path::new("json:{\"driver\":\"qcow2\"}")).unwrap_err();
        assert!(said.contains("give the path"), "{said}");
        check_disk(Path::new("./rbd:x")).unwrap();
    }

    #[test]
    fn a_slash_at_the_end_is_told() {
        let said = check_disk(Path::new("/none/a.img//")).unwrap_err();
        assert!(said.ends_with("write '/none/a.img'"), "{said}");
        let said = check_disk(Path::new("/usr/")).unwrap_err();
        assert!(said.contains("is a directory"), "{said}");
        check_path(Path::new("lease:/a/b")).unwrap();
        check_path(Path::new("lease:/a/")).unwrap_err();
    }

    #[test]
    fn a_duration_after_a_space_is_told() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["vmlockctl lock --wait 5 a", "vmlockctl --json lock --wait 5min a"] {
            assert!(check_wait(&words(line)).unwrap_err().contains("write --wait=5"), "{line}");
        }
        for line in ["vmlockctl lock --wait a", "vmlockctl lock --wait -- 5", "vmlockctl list"] {
            check_wait(&words(line)).unwrap();
        }
    }
}
