//! A sequence that shows a difference, made as short as it gets.

use super::op::Op;

/// Leaves steps out, many first and then single ones, as long as `fails` says that it still does.
pub(super) fn shrink(mut ops: Vec<Op>, mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut size = ops.len() / 2;
    while size > 0 {
        let (mut at, mut shorter) = (0, false);
        while at < ops.len() {
            let end = (at + size).min(ops.len());
            let without: Vec<Op> = [&ops[..at], &ops[end..]].concat();
            if fails(&without) {
                (ops, shorter) = (without, true);
            } else {
                at = end;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    simplify(&mut ops, &mut fails);
    ops
}

/// Leaves out what single steps ask for beyond what is needed.
fn simplify(ops: &mut Vec<Op>, fails: &mut impl FnMut(&[Op]) -> bool) {
    for n in 0..ops.len() {
        let mut at = 0;
        while let Some(simpler) = without(&ops[n], at) {
            let mut changed = ops.clone();
            changed[n] = simpler;
            if fails(&changed) {
                *ops = changed;
            } else {
                at += 1;
            }
        }
    }
}

/// A step that asks for one thing less; `None` where it does not ask for as much.
fn without(op: &Op, at: usize) -> Option<Op> {
    let mut op = op.clone();
    match &mut op {
        Op::Open { disk_requests, .. } | Op::Acquire { disk_requests, .. }
            if at < disk_requests.len() =>
        {
            disk_requests.remove(at);
        }
        Op::Release { disks, .. } if at < disks.len() => drop(disks.remove(at)),
        Op::Restart(dying) if at < dying.len() => drop(dying.remove(at)),
        _ => return None,
    }
    Some(op)
}
