//! Finds the mounts that a name leads to, without a request to any that may not respond.
//!
//! A user controls the duration of a walk by the links in its own directories. So a name is walked
//! once, each component from the directory before it, with the [`Budget`] of a lookup. A name that
//! exceeds it is refused by the lookup, too, before that queries any remote mount.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat, readlink, readlinkat};
use rustix::io::Errno;

use super::budget::Budget;
use super::lookup;
use super::open::{Links, path_from};
use crate::lock::mount::{Mount, Mounts};
use crate::lock::request::FoundFile;

/// How many prefixes of a name are checked one by one.
const SHORT_PREFIXES: usize = 16;
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Returns the remote mount that a name leads to or through. `None` if there is none, or if the
/// name leads nowhere.
///
/// Sends requests to local mounts only, so it returns even if every remote server is down.
#[must_use]
pub fn remote_mount<'m>(mounts: &'m Mounts, path: &Path) -> Option<&'m Mount> {
    if !mounts.iter().any(Mount::is_remote) {
        return None;
    }
    let mut walk = Walk::new(path);
    while !walk.has_ended() {
        walk.advance(mounts);
    }
    walk.remote().and_then(|mount| mounts.numbered(mount.id))
}

/// A walk along a name to the mount that it leads to, link by link. It sends requests to local
/// mounts, which may hang, and to no remote one.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The path walked so far, without links.
    walked: PathBuf,
    /// The components that are left, the last one first.
    rest: Vec<OsString>,
    budget: Budget,
    end: Option<End>,
    /// Where the file is stored, if the name leads to it without a link.
    found: Option<FoundFile>,
}

/// The end of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// On a local mount, or nowhere.
    Local,
    /// At a remote mount.
    Remote(Mount),
}

impl Walk {
    /// Returns a walk that has not begun. Sends no request.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut rest = Vec::new();
        push(&mut rest, path);
        let (walked, budget) = (PathBuf::from("/"), Budget::default());
        Self { walked, rest, budget, end: None, found: None }
    }

    /// Returns a walk that stores the file that the name leads to, if it is on no remote mount and
    /// the name has no link in it. Sends no request.
    #[must_use]
    pub fn storing(path: &Path, found: &FoundFile) -> Self {
        let walk = Self::new(path);
        // A file of an earlier attempt may be another one by now.
        drop(found.take());
        // A walk ignores a slash at the end, with which only a directory is found.
        let is_plain = walk.path().as_os_str() == path.as_os_str();
        Self { found: is_plain.then(|| found.clone()), ..walk }
    }

    /// Whether the walk has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Returns the remote mount at which the walk has ended.
    #[must_use]
    pub fn remote(&self) -> Option<&Mount> {
        match &self.end {
            Some(End::Remote(mount)) => Some(mount),
            _ => None,
        }
    }

    /// Returns the local mount that the name is on as it is spelt. [`Self::advance`] queries it,
    /// and so does a use of the name after the walk. This sends no request. `None` after a walk
    /// that has ended at a remote mount.
    #[must_use]
    pub fn local<'m>(&self, mounts: &'m Mounts) -> Option<&'m Mount> {
        if self.remote().is_some() {
            return None;
        }
        let (path, any) = (self.path(), mounts.iter().any(Mount::is_remote));
        match any.then(|| mounts.first_remote_along(&path)).flatten() {
            Some(remote) => mounts.of(remote.point.parent().unwrap_or(Path::new("/"))),
            None => mounts.of(&path),
        }
    }

    /// Follows the name to the next link in it, or to the end. A name with more links or components
    /// than a lookup follows ends where the limit is reached: the lookup goes no further either.
    pub fn advance(&mut self, mounts: &Mounts) {
        if !self.has_ended() {
            self.end = self.follow(mounts).unwrap_or(Some(End::Local));
        }
    }

    /// Returns the name without the links that were followed.
    fn path(&self) -> PathBuf {
        let mut path = self.walked.clone();
        path.extend(self.rest.iter().rev());
        path
    }

    /// Returns the end if the name as it is spelt leads to a mount without a link. Most names do,
    /// and this takes little work.
    fn end_without_links(&self, mounts: &Mounts) -> Option<End> {
        if self.rest.iter().any(|part| part == "..") {
            return None;
        }
        let path = self.path();
        match mounts.first_remote_along(&path) {
            // A link before the mount point may lead elsewhere.
            Some(remote) => has_no_link(remote.point.parent().unwrap_or(Path::new("/")))
                .then(|| End::Remote(remote.clone())),
            None => match &self.found {
                Some(found) => {
                    found.store(lookup::locate(&path, Links::Refuse).ok()?);
                    Some(End::Local)
                }
                None => has_no_link(&path).then_some(End::Local),
            },
        }
    }

    /// Follows the name to the next link, and returns the end if there is none.
    ///
    /// # Errors
    ///
    /// `ELOOP`, `ENAMETOOLONG`: the name has more links or components than a lookup follows.
    fn follow(&mut self, mounts: &Mounts) -> Result<Option<End>, Errno> {
        if self.budget.spent() == 0 {
            if let Some(end) = self.end_without_links(mounts) {
                return Ok(Some(end));
            }
            if let Some(remote) = mounts.at(&self.walked).filter(|mount| mount.is_remote()) {
                return Ok(Some(End::Remote(remote.clone())));
            }
        }
        // The directory reached so far; `None` once no further lookup is possible.
        let mut at = open_directory(None, &self.walked);
        while let Some(part) = self.rest.pop() {
            self.budget.spend_component()?;
            if part == ".." {
                self.walked.pop();
                at = at.and_then(|at| open_directory(Some(&at), Path::new("..")));
                continue;
            }
            self.walked.push(&part);
            if let Some(remote) = mounts.at(&self.walked).filter(|mount| mount.is_remote()) {
                return Ok(Some(End::Remote(remote.clone())));
            }
            let Some(directory) = at.take() else { continue };
            if let Ok(target) = readlinkat(&directory, part.as_os_str(), Vec::new()) {
                self.budget.spend_link()?;
                let target = path_from(target);
                self.walked.pop();
                if target.is_absolute() {
                    self.walked = PathBuf::from("/");
                }
                push(&mut self.rest, &target);
                return Ok(None);
            }
            if !self.rest.is_empty() {
                at = open_directory(Some(&directory), Path::new(&part));
            }
        }
        Ok(Some(End::Local))
    }
}

/// Pushes the components of a name onto the rest.
fn push(rest: &mut Vec<OsString>, name: &Path) {
    let is_step =
        |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    let parts = name.components().filter(is_step).map(|part| OsStr::to_owned(part.as_os_str()));
    let first = rest.len();
    rest.extend(parts);
    rest[first..].reverse();
}

fn open_directory(at: Option<&OwnedFd>, name: &Path) -> Option<OwnedFd> {
    match at {
        Some(at) => openat(at, name, DIRECTORY, Mode::empty()),
        None => openat(CWD, name, DIRECTORY, Mode::empty()),
    }
    .ok()
}

/// Whether a name without detours leads to a file and has no link in it. The name must not lead
/// through a remote mount.
fn has_no_link(path: &Path) -> bool {
    let mut prefixes: Vec<&Path> = path.ancestors().take(SHORT_PREFIXES + 1).collect();
    if prefixes.len() > SHORT_PREFIXES {
        // Each prefix is walked from the root again, so the cost grows with the square of the
        // length.
        return !matches!(lookup::locate(path, Links::Refuse), Err(Errno::LOOP))
            && is_no_link(path);
    }
    if let Some(found) = lookup::locate_at_once(path) {
        return found.is_ok();
    }
    prefixes.reverse();
    // This opens nothing, and without openat2(2) it takes fewer system calls than a lookup.
    prefixes.into_iter().all(is_no_link)
}

/// Whether a name leads to a file that is no symbolic link.
fn is_no_link(name: &Path) -> bool {
    readlink(name, Vec::new()) == Err(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Returns a local root file system, and a remote one at this directory.
    fn with_remote(at: &Path) -> Mounts {
        let remote = format!("2 1 0:9 / {} rw - nfs x rw\n", at.display());
        Mounts::parse(format!("1 0 1:1 / / rw - ext4 x rw\n{remote}").as_bytes())
    }

    #[test]
    fn a_name_is_walked_up_to_a_remote_mount() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let at = |name: &str| real.join(name);
        std::fs::create_dir(at("far")).unwrap();
        std::fs::create_dir(at("near")).unwrap();
        std::fs::write(at("near/disk"), "").unwrap();
        symlink(at("far"), at("absolute")).unwrap();
        symlink("../far/disk", at("near/relative")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(at("near"), at("far/back")).unwrap();
        let mounts = with_remote(&at("far"));
        let remote = |name: &str| remote_mount(&mounts, &at(name)).map(|mount| mount.id);
        for name in
            ["far", "far/disk", "far/a/b", "absolute/disk", "near/relative", "near/../far/x"]
        {
            assert_eq!(remote(name), Some(2), "{name}");
        }
        // The server would be queried for the rest.
        assert_eq!(remote("far/back/disk"), Some(2));
        let deep = "d/".repeat(2 * SHORT_PREFIXES);
        std::fs::create_dir_all(at(&format!("near/{deep}"))).unwrap();
        symlink(at("near"), at("link")).unwrap();
        let straight = |name: &str| has_no_link(&at(name));
        assert!(straight("near/disk") && straight("near") && straight(&format!("near/{deep}")));
        for name in ["link", "link/disk", "near/none", "near/disk/x", &format!("link/{deep}")] {
            assert!(!straight(name), "{name}");
        }
        let walked = |name: &str| {
            let mut walk = Walk::new(&at(name));
            let number = |mount: Option<&Mount>| mount.map(|mount| mount.id);
            // Before any request is sent.
            assert_eq!(number(walk.local(&mounts)), Some(1), "{name}");
            let mut steps = 0;
            while !walk.has_ended() {
                walk.advance(&mounts);
                steps += 1;
            }
            (number(walk.local(&mounts)), number(walk.remote()), steps)
        };
        let names = ["near/disk", "near/none", "far/disk", "near/relative", "loop"].map(walked);
        let (local_end, remote_end) = ((Some(1), None, 1), (None, Some(2), 1));
        let through_link = (None, Some(2), 2);
        assert_eq!(names, [local_end, local_end, remote_end, through_link, (Some(1), None, 41)]);
        for name in ["near", "near/disk", "near/none", "loop", "farther", "far/../../near"] {
            assert_eq!(remote_mount(&Mounts::default(), &at(name)), None);
            if name != "far/../../near" {
                assert_eq!(remote(name), None, "{name}");
            }
        }
    }

    #[test]
    fn chain_of_links_is_walked_within_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let at = |name: &str| real.join(name);
        std::fs::create_dir_all(at("p")).unwrap();
        std::fs::create_dir_all(at("far")).unwrap();
        let mounts = with_remote(&at("far"));
        // A chain of links, each with this many detours.
        let chain = |links: usize, detours: usize, to: &str| {
            for n in 0..links {
                let next = if n + 1 == links { to.to_owned() } else { format!("l{}", n + 1) };
                let _ = std::fs::remove_file(at(&format!("l{n}")));
                symlink("p/../".repeat(detours) + &next, at(&format!("l{n}"))).unwrap();
            }
            let mut walk = Walk::new(&at("l0/disk"));
            while !walk.has_ended() {
                walk.advance(&mounts);
            }
            (walk.remote().map(|mount| mount.id), walk.path(), walk.budget.spent())
        };
        let own = at("l0").components().count() - 1;
        assert_eq!(chain(3, 4, "far"), (Some(2), at("far/disk"), own + 3 * 9));
        assert_eq!(chain(3, 4, "p"), (None, at("p/disk"), own + 3 * 9 + 1));
        let (end, _, spent) = chain(41, 0, "far");
        assert_eq!((end, spent), (None, own + 40));
        let (end, _, spent) = chain(38, 800, "far");
        assert_eq!((end, spent), (None, Budget::COMPONENTS));
        assert_eq!(remote_mount(&mounts, &at("l0/disk")), None);
        assert_eq!(lookup::locate(&at("l0"), Links::Follow).unwrap_err(), Errno::NAMETOOLONG);
    }
}
