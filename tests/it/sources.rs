//! The project's own files, for tests that read them.

use std::fs;
use std::path::{Path, PathBuf};

/// The project's directory.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files in a directory and below it whose names end in one of `endings`, in order; none where
/// the directory does not exist.
pub(crate) fn files(below: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The Rust sources in a directory and below it.
pub(crate) fn sources(below: &Path) -> Vec<PathBuf> {
    let found = files(below, &[".rs"]);
    assert!(!found.is_empty(), "{} has no sources", below.display());
    found
}
