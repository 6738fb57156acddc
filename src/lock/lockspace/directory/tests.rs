use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn directories_writable_by_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("locks");
    let why = |path: &Path| Directory::open(path).unwrap_err().to_string();
    assert!(why(&path).contains("does not exist"));
    fs::create_dir(&path).unwrap();
    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(why(&path).contains("writable by its group or by all"), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    Directory::open(&path).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(why(&file).contains("is not a directory"));
    assert!(why(Path::new("locks")).contains("absolute"));
}

#[test]
fn missing_directories_are_created_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("a/b");
    let make = |path: &Path| Directory::make(path, Links::Follow);
    make(&path).unwrap();
    assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o7777, 0o700);
    make(&path).unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(make(&open.join("c")).is_err());
    assert!(make(&dir.path().join("x/../y")).is_err());
    assert!(!open.join("c").exists() && !dir.path().join("x").exists());
}

#[test]
fn links_are_refused_on_request() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    Directory::make(&real, Links::Refuse).unwrap();
    std::os::unix::fs::symlink("real", &link).unwrap();
    for path in [link.clone(), link.join("below")] {
        let refused = Directory::make(&path, Links::Refuse).unwrap_err().to_string();
        assert!(refused.contains("leads through a symbolic link"), "{refused}");
    }
    assert!(!real.join("below").exists());
    Directory::make(&link.join("below"), Links::Follow).unwrap();
    assert!(real.join("below").exists());
}

#[test]
fn only_an_empty_directory_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("locks");
    let space = Directory::make(&path, Links::Follow).unwrap();
    drop(space.open_file("a").unwrap());
    let refused = space.remove().unwrap_err();
    assert!(matches!(refused, Error::System { errno: Errno::NOTEMPTY, .. }), "{refused}");
    space.remove_file("a").unwrap();
    // Another directory in its place does not belong to the lockspace.
    fs::rename(&path, dir.path().join("aside")).unwrap();
    fs::create_dir(&path).unwrap();
    space.remove().unwrap();
    assert!(path.exists());
    fs::remove_dir(&path).unwrap();
    space.remove().unwrap();
    fs::rename(dir.path().join("aside"), &path).unwrap();
    space.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_lock_file_is_never_reached_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let space = Directory::open(dir.path()).unwrap();
    let file = space.open_file("a").unwrap();
    assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o7777, 0o600);
    assert!(space.still_names("a", &file).unwrap());
    std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
    let error = space.open_file("b").unwrap_err();
    assert!(matches!(error, Error::System { errno: Errno::LOOP, .. }), "{error}");
    assert!(space.open_file("../x").is_err());
    fs::remove_file(dir.path().join("a")).unwrap();
    assert!(!space.still_names("a", &file).unwrap());
}
