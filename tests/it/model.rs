//! The service agrees with a model that is small enough to be verified by reading.
//!
//! Five VMs and four disks, each with two names: random sequences of steps open, acquire, convert,
//! release, die and close; and the service is killed and restarted. After every step, the state of
//! the service, its events, the locks of the kernel and all answers are compared with the
//! [model](model). Locks, files and descriptors are real; the service runs in this process, so that
//! a step takes some hundred microseconds.
//!
//! `$VMLOCKD_MODEL_SEQUENCES` is the number of sequences of fifty steps: 100 in the quick tier and
//! 1000 in the host tier unless it is set. `$VMLOCKD_MODEL_SEED` repeats a run. A failing sequence is
//! minimized and printed as a script.

mod answer;
mod calls;
mod generator;
mod harness;
mod instance;
mod lock_numbers;
mod observed;
mod op;
mod queue;
mod reference;
mod scenario;
mod shrink;
mod transfer;
mod view;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use harness::Harness;
use op::Op;
use reference::ReferenceModel;
use scenario::Scenario;

use crate::fixture::rng::{Rng, seed, times};

/// How many steps a sequence has.
const STEPS: usize = 50;
/// The number of sequences that are tried in the quick tier, unless the environment says otherwise.
const SEQUENCES: usize = 100;
/// How long the service may take to be as the model.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take while a sequence is made shorter, most of which comes to a difference.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// The first difference of a sequence.
struct Difference {
    step: usize,
    text: String,
}

/// Runs a sequence on both.
fn run(scenario: &Scenario, ops: &[Op], patience: Duration) -> Result<(), Difference> {
    let mut reference = ReferenceModel::default();
    let mut harness = Harness::begin(scenario, patience);
    for (step, op) in ops.iter().enumerate() {
        if !reference.permits(op) {
            continue;
        }
        let expected = reference.apply(step, op);
        let done = harness.step(step, op, &reference, &expected);
        done.map_err(|text| Difference { step, text })?;
    }
    Ok(())
}

/// The sequence as a script, and what is different at its end.
fn report(ops: &[Op], difference: &Difference) -> String {
    let mut reference = ReferenceModel::default();
    let mut text = String::new();
    for (step, op) in ops.iter().take(difference.step + 1).enumerate() {
        if !reference.permits(op) {
            continue;
        }
        write!(text, "{step:3}  {op}").unwrap();
        for (call, answer) in reference.apply(step, op) {
            let whose = if call == step { String::new() } else { format!("step {call}: ") };
            write!(text, "\n       {whose}{answer}").unwrap();
        }
        text.push('\n');
    }
    write!(text, "then {}", difference.text).unwrap();
    text
}

/// Tries this many sequences, or as many as the environment says.
fn compare(sequences: usize) {
    let sequences = times("VMLOCKD_MODEL_SEQUENCES", sequences);
    let (seed, scenario, begun) = (seed("VMLOCKD_MODEL_SEED"), Scenario::set_up(), Instant::now());
    for sequence in 0..sequences {
        let rng = Rng::new(seed, sequence as u64);
        let ops = generator::sequence(&rng, STEPS);
        let Err(Difference { step, text }) = run(&scenario, &ops, PATIENCE) else { continue };
        println!("seed {seed}, sequence {sequence}, step {step}: {text}");
        let shortest =
            shrink::shrink(ops[..=step].to_vec(), |ops| run(&scenario, ops, IMPATIENCE).is_err());
        match run(&scenario, &shortest, PATIENCE) {
            Err(difference) => panic!("the shortest:\n{}", report(&shortest, &difference)),
            Ok(()) => panic!("it was not so again:\n{}", report(&ops, &Difference { step, text })),
        }
    }
    println!("{sequences} sequences of {STEPS} steps, seed {seed}: {:.0?}", begun.elapsed());
}

#[test]
fn the_service_does_what_the_model_says() {
    compare(SEQUENCES);
}

/// Half a minute of load.
mod host {
    /// The number of sequences that are tried in the host tier.
    const SEQUENCES: usize = 1000;

    #[test]
    fn the_service_does_what_the_model_says() {
        super::compare(SEQUENCES);
    }
}
