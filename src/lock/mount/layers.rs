//! The layers of an overlay, as its mount options name them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Returns the directories of all layers that the options of an overlay name, as
/// `proc_pid_mountinfo(5)` has them.
pub(in crate::lock) fn layers_in(options: &[u8]) -> Vec<PathBuf> {
    let mut layers = Vec::new();
    for option in options.split(|byte| *byte == b',') {
        if let Some(directories) = option.strip_prefix(b"lowerdir=") {
            layers.extend(directories_of(unescape(directories)));
            continue;
        }
        let names: [&[u8]; 3] = [b"upperdir=", b"lowerdir+=", b"datadir+="];
        let directory = names.into_iter().find_map(|name| option.strip_prefix(name));
        layers.extend(directory.map(|directory| PathBuf::from(unescape(directory))));
    }
    layers
}

/// Splits the directories of `lowerdir=` at colons; a backslash precedes a colon in a name.
pub(in crate::lock) fn directories_of(list: OsString) -> Vec<PathBuf> {
    let mut all = vec![Vec::new()];
    let mut bytes = list.into_vec().into_iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => all.push(Vec::new()),
            b'\\' => all.last_mut().into_iter().for_each(|last| last.extend(bytes.next())),
            byte => all.last_mut().into_iter().for_each(|last| last.push(byte)),
        }
    }
    let named = all.into_iter().filter(|name| !name.is_empty());
    named.map(|name| OsString::from_vec(name).into()).collect()
}

/// Replaces the kernel's escapes in a word: blanks, newlines and backslashes are a backslash and
/// three octal digits.
pub(in crate::lock) fn unescape(word: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let escaped = digits.and_then(|it| u8::from_str_radix(str::from_utf8(it).ok()?, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = escaped.and_then(|_| after.get(3..)).unwrap_or(after);
    }
    OsString::from_vec(bytes)
}
