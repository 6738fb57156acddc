//! What a client does all day, as chance has it.

use super::client::{Client, Wish};
use super::scene::Scene;

impl Client<'_> {
    /// Goes on until it is told to stop; then its owner ends.
    pub(super) async fn live(&mut self) {
        while !self.scene.is_over() {
            self.act().await;
            self.scene.tally.command();
        }
        if self.is_open() {
            if self.dice.chance(50) { self.end().await } else { self.close().await }
        }
    }

    async fn act(&mut self) {
        if !self.is_open() {
            let wish = if self.dice.chance(50) { self.wish(&[]) } else { Vec::new() };
            let by_process = self.dice.chance(40);
            return self.open(&wish, by_process).await;
        }
        let held = self.held();
        let disks: Vec<String> = held.iter().map(|(disk, _)| disk.clone()).collect();
        match self.dice.below(100) {
            0..40 => {
                let mut wish = self.wish(&disks);
                let common: Vec<String> = Scene::for_all().into();
                let common = self.dice.some(&common, 1).remove(0);
                if self.dice.chance(30) && !disks.contains(&common) {
                    let mode = if self.dice.chance(80) { "shared" } else { "exclusive" };
                    wish.push((common, mode));
                }
                if !wish.is_empty() {
                    self.acquire(&wish).await;
                }
            }
            40..62 if !disks.is_empty() => {
                let disks = self.dice.some(&disks, 3);
                self.release(&disks).await;
            }
            62..76 if !disks.is_empty() => {
                let disk = self.dice.some(&disks, 1).remove(0);
                self.convert(&disk).await;
            }
            76..80 if !disks.is_empty() => self.pause().await,
            80..84 if !disks.is_empty() => self.hand_over().await,
            76..87 => {
                let by_process = self.dice.chance(60);
                self.anchor(by_process).await;
                self.shed().await;
            }
            // What it has it is given again.
            87..90 if !held.is_empty() => assert!(self.acquire(&held).await),
            90..96 => self.end().await,
            96..100 => self.close().await,
            _ => {}
        }
    }

    /// Some of its own disks, but for these.
    fn wish(&self, but: &[String]) -> Vec<Wish> {
        let free: Vec<String> =
            self.own.iter().filter(|disk| !but.contains(disk)).cloned().collect();
        let mode = |disk| (disk, if self.dice.chance(70) { "exclusive" } else { "shared" });
        self.dice.some(&free, 3).into_iter().map(mode).collect()
    }
}
