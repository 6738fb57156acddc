//! The random operations of a client.

use super::client::{Client, DiskRequest};
use super::scenario::Scenario;

impl Client<'_> {
    /// Runs until the end of the test; then the owner ends.
    pub(super) async fn live(&mut self) {
        while !self.scenario.is_over() {
            self.act().await;
            self.scenario.statistics.command();
        }
        if self.is_open() {
            if self.rng.chance(50) { self.end().await } else { self.close().await }
        }
    }

    async fn act(&mut self) {
        if !self.is_open() {
            let disk_request =
                if self.rng.chance(50) { self.disk_request(&[]) } else { Vec::new() };
            let by_process = self.rng.chance(40);
            return self.open(&disk_request, by_process).await;
        }
        let held = self.held();
        let disks: Vec<String> = held.iter().map(|(disk, _)| disk.clone()).collect();
        match self.rng.below(100) {
            0..40 => {
                let mut disk_request = self.disk_request(&disks);
                let common: Vec<String> = Scenario::for_all().into();
                let common = self.rng.some(&common, 1).remove(0);
                if self.rng.chance(30) && !disks.contains(&common) {
                    let mode = if self.rng.chance(80) { "shared" } else { "exclusive" };
                    disk_request.push((common, mode));
                }
                if !disk_request.is_empty() {
                    self.acquire(&disk_request).await;
                }
            }
            40..62 if !disks.is_empty() => {
                let disks = self.rng.some(&disks, 3);
                self.release(&disks).await;
            }
            62..76 if !disks.is_empty() => {
                let disk = self.rng.some(&disks, 1).remove(0);
                self.convert(&disk).await;
            }
            76..80 if !disks.is_empty() => self.pause().await,
            80..84 if !disks.is_empty() => self.hand_over().await,
            76..87 => {
                let by_process = self.rng.chance(60);
                self.anchor(by_process).await;
                self.shed().await;
            }
            // A repeated request for held disks is granted.
            87..90 if !held.is_empty() => assert!(self.acquire(&held).await),
            90..96 => self.end().await,
            96..100 => self.close().await,
            _ => {}
        }
    }

    /// Some of its own disks, but for these.
    fn disk_request(&self, but: &[String]) -> Vec<DiskRequest> {
        let free: Vec<String> =
            self.own.iter().filter(|disk| !but.contains(disk)).cloned().collect();
        let mode = |disk| (disk, if self.rng.chance(70) { "exclusive" } else { "shared" });
        self.rng.some(&free, 3).into_iter().map(mode).collect()
    }
}
