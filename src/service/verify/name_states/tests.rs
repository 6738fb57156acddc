//! Names whose lookup hangs.

use std::path::Path;
use std::sync::Condvar;

use super::*;
use crate::lock::Mode;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::sync;

const USER: u32 = 4_000_000_000;

/// How many lookups of names with `hung` in them are in progress, and whether they go on.
static HANGING: (Mutex<(usize, bool)>, Condvar) = (Mutex::new((0, false)), Condvar::new());

fn look_up(check: CheckName) -> Option<NameState> {
    let hangs = check
        .asks()
        .iter()
        .any(|asked| matches!(asked, Asked::Path(path) if path.to_string_lossy().contains("hung")));
    if hangs {
        let mut hanging = sync::lock(&HANGING.0);
        hanging.0 += 1;
        let mut hanging = HANGING.1.wait_while(hanging, |(_, go_on)| !*go_on).unwrap();
        hanging.0 -= 1;
    }
    check.perform()
}

fn hanging() -> usize {
    sync::lock(&HANGING.0).0
}

fn check(path: &Path) -> CheckName {
    let want = Want {
        resource: path.display().to_string(),
        canonical: None,
        path: Some(path.to_owned()),
        lock_files: Vec::new(),
        identity: Identity::of(&rustix::fs::stat(path).unwrap()).unwrap(),
        below: Vec::new(),
        copies: Vec::new(),
        lockspace: LockspaceKind::Direct,
        fleeting: false,
        mode: Mode::Exclusive,
        write_shown: true,
    };
    CheckName::new(&want).unwrap()
}

#[tokio::test]
async fn a_hung_lookup_occupies_few_threads_and_hides_no_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<CheckName> = (0..2 * BATCH)
        .map(|n| {
            let path = dir.path().join(if n == 10 { "hung".into() } else { n.to_string() });
            std::fs::write(&path, "").unwrap();
            check(&path)
        })
        .collect();
    let checks = Arc::new(NameChecks { look_up, ..NameChecks::default() });
    let storage = Arc::new(Executor::default());
    let ask = async |uid| {
        let question = NameQuestion {
            uid,
            checks: names.iter().cloned().map(Some).collect(),
            groups: BTreeMap::from([((true, true, 7, None), names.clone())]),
        };
        let begun = Instant::now();
        let states = answer(&checks, &storage, question).await.states();
        let missing = states.iter().filter(|state| state.is_none()).count();
        (states[10], missing, begun.elapsed())
    };
    // The whole batch hangs, and then the name alone.
    let (state, missing, _) = ask(USER).await;
    assert_eq!((state, missing, hanging()), (None, 1, 2));
    for uid in [USER, USER + 1, USER + 2] {
        let (state, missing, time) = ask(uid).await;
        assert_eq!((state, missing, hanging()), (None, 1, 2), "{uid}");
        assert!(time < HUNG, "{time:?}");
    }
    // The administrator's lookups do not depend on the permits of other users.
    for _ in 0..2 {
        let (state, missing, _) = ask(0).await;
        assert_eq!((state, missing, hanging()), (None, 1, 4));
    }
    sync::lock(&HANGING.0).1 = true;
    HANGING.1.notify_all();
    while !sync::lock(&checks.running).checks.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(USER).await.1, 0);
    storage.idle().await;
    assert_eq!(hanging(), 0);
}

#[tokio::test]
async fn names_that_other_threads_look_up_are_answered_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, "").unwrap();
    let (checks, storage) = (Arc::new(NameChecks::default()), Arc::new(Executor::default()));
    let mut all = JoinSet::new();
    for uid in 0..100 {
        let (checks, storage, name) = (Arc::clone(&checks), Arc::clone(&storage), check(&path));
        all.spawn(async move {
            let question = NameQuestion {
                uid,
                checks: vec![Some(name.clone())],
                groups: BTreeMap::from([((true, true, 7, None), vec![name])]),
            };
            answer(&checks, &storage, question).await.states()
        });
    }
    while let Some(states) = all.join_next().await {
        assert_eq!(states.unwrap(), [Some(NameState::Same)]);
    }
}
