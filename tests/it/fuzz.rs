//! Repeats the inputs of the fuzzer's corpus. `make fuzz` searches for more.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/check.rs"]
mod check;

/// Fewer than these are not the corpus.
const LEAST: usize = 20;

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs = fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    let mut replayed = 0;
    for input in inputs {
        let path = input.unwrap().path();
        // Told only where a check fails.
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        replayed += 1;
    }
    assert!(replayed >= LEAST, "{} has {replayed} files", corpus.display());
}

#[test]
fn a_stream_is_split_the_same_however_it_comes() {
    replay("frame", check::frame);
}

#[test]
fn a_payload_is_decoded_or_refused() {
    replay("payload", check::payload);
}
