//! Which mounts a name leads to, found out without asking any of them that may not answer.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::readlink;

use super::lookup;
use super::mount::{Mount, Mounts};
use super::open::Links;

/// How many links one name may lead through, as in the kernel (`path_resolution(7)`).
const LINKS: usize = 40;
/// How many prefixes of a name are looked at one by one.
const SHORT: usize = 16;

/// The far mount that a name leads to or through; `None` where none does, or the name leads nowhere
/// without one.
///
/// Only what is near is looked at, so this returns whatever is dead.
#[must_use]
pub fn far_mount<'m>(mounts: &'m Mounts, path: &Path) -> Option<&'m Mount> {
    if !mounts.iter().any(Mount::is_far) {
        return None;
    }
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match step(mounts, &path) {
            Step::Far(mount) => return Some(mount),
            Step::Near => return None,
            Step::Link(to) => path = to,
        }
    }
    None
}

/// A walk along a name to the mount that it leads to, link by link. No remote mount is asked; a local
/// one is, and may hang.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The name without the links that were followed.
    path: PathBuf,
    links: usize,
    end: Option<End>,
}

/// Where a walk has ended.
#[derive(Debug, Clone)]
enum End {
    /// On a local mount, or nowhere.
    Local,
    /// Before a remote mount.
    Remote(Mount),
}

impl Walk {
    /// A walk that has not begun: nothing was asked.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, links: 0, end: None }
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

    /// Returns the local mount that the name is on, as it is spelt: the one that [`Self::advance`] asks,
    /// and that whoever uses the name asks after the walk. Asks nothing. `None` after a walk that has
    /// ended at a remote mount.
    #[must_use]
    pub fn local<'m>(&self, mounts: &'m Mounts) -> Option<&'m Mount> {
        if self.remote().is_some() {
            return None;
        }
        let any = mounts.iter().any(Mount::is_far);
        match any.then(|| mounts.far_on_the_way(&self.path)).flatten() {
            Some(remote) => mounts.of(remote.point.parent().unwrap_or(Path::new("/"))),
            None => mounts.of(&self.path),
        }
    }

    /// Follows the name to the next link in it, or to the end.
    pub fn advance(&mut self, mounts: &Mounts) {
        if self.has_ended() {
            return;
        }
        match step(mounts, &self.path) {
            Step::Far(mount) => self.end = Some(End::Remote(mount.clone())),
            Step::Near => self.end = Some(End::Local),
            Step::Link(to) => {
                self.path = to;
                self.links += 1;
                if self.links >= LINKS {
                    self.end = Some(End::Local);
                }
            }
        }
    }
}

enum Step<'m> {
    Far(&'m Mount),
    Near,
    /// There is a link; without it, the name is this.
    Link(PathBuf),
}

/// Walks a name up to the first link or far mount in it.
fn step<'m>(mounts: &'m Mounts, path: &Path) -> Step<'m> {
    let mut walked = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect();
    // Mostly there is no link at all, and one look shows it.
    let plain = !rest.iter().any(|part| part == "..");
    if plain {
        if let Some(far) = mounts.far_on_the_way(path) {
            // A link before it may lead elsewhere; then it is walked below.
            if leads_straight(far.point.parent().unwrap_or(Path::new("/"))) {
                return Step::Far(far);
            }
        } else if leads_straight(path) {
            return Step::Near;
        }
    }
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            walked.pop();
            continue;
        }
        walked.push(&part);
        if let Some(far) = mounts.far_on_the_way(&walked) {
            return Step::Far(far);
        }
        if let Ok(target) = readlink(&walked) {
            walked.pop();
            let mut to = walked.join(target);
            to.extend(rest);
            return Step::Link(to);
        }
    }
    Step::Near
}

/// Whether a name without detours leads to a file and has no link in it. Only for one that no far mount
/// is on the way of.
fn leads_straight(path: &Path) -> bool {
    let mut prefixes: Vec<&Path> = path.ancestors().take(SHORT + 1).collect();
    if prefixes.len() > SHORT {
        // Each prefix is walked from the root again, so the cost grows with the square of the length.
        return !matches!(lookup::locate(path, Links::Refuse), Err(Errno::ELOOP))
            && readlink(path) == Err(Errno::EINVAL);
    }
    prefixes.reverse();
    // Nothing is opened, and without openat2(2) this takes less system calls than a lookup.
    prefixes.into_iter().all(|prefix| readlink(prefix) == Err(Errno::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_name_is_walked_up_to_what_is_far() {
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
        let list = format!(
            "1 0 1:1 / / rw - ext4 x rw\n2 1 0:9 / {} rw - nfs x rw\n",
            at("far").display()
        );
        let mounts = Mounts::parse(list.as_bytes());
        let far = |name: &str| far_mount(&mounts, &at(name)).map(|mount| mount.id);
        for name in
            ["far", "far/disk", "far/a/b", "absolute/disk", "near/relative", "near/../far/x"]
        {
            assert_eq!(far(name), Some(2), "{name}");
        }
        // It would be asked where that leads.
        assert_eq!(far("far/back/disk"), Some(2));
        let deep = "d/".repeat(2 * SHORT);
        std::fs::create_dir_all(at(&format!("near/{deep}"))).unwrap();
        symlink(at("near"), at("link")).unwrap();
        let straight = |name: &str| leads_straight(&at(name));
        assert!(straight("near/disk") && straight("near") && straight(&format!("near/{deep}")));
        for name in ["link", "link/disk", "near/none", "near/disk/x", &format!("link/{deep}")] {
            assert!(!straight(name), "{name}");
        }
        let walked = |name: &str| {
            let mut walk = Walk::new(at(name));
            let number = |mount: Option<&Mount>| mount.map(|mount| mount.id);
            // Before anything is asked.
            assert_eq!(number(walk.local(&mounts)), Some(1), "{name}");
            let mut steps = 0;
            while !walk.has_ended() {
                walk.advance(&mounts);
                steps += 1;
            }
            (number(walk.local(&mounts)), number(walk.remote()), steps)
        };
        let names = ["near/disk", "near/none", "far/disk", "near/relative", "loop"].map(walked);
        let (near, far_away) = ((Some(1), None, 1), (None, Some(2), 1));
        let through_link = (None, Some(2), 2);
        assert_eq!(names, [near, near, far_away, through_link, (Some(1), None, LINKS)]);
        for name in ["near", "near/disk", "near/none", "loop", "farther", "far/../../near"] {
            assert_eq!(far_mount(&Mounts::default(), &at(name)), None);
            if name != "far/../../near" {
                assert_eq!(far(name), None, "{name}");
            }
        }
    }
}
