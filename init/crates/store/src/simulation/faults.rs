//! What goes wrong by itself.

use std::time::Duration;

use super::cluster::{Cluster, Slot};
use super::{below, draw, one_in};
use crate::disk::fake::Throws;

/// A fault, for itself to be had in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    CutPower,
    CutPowerOfSome,
    /// In the middle of a batch, a checkpoint, the making of a file.
    CutPowerInSync,
    Kill,
    /// Killed, and started again before anybody noticed.
    KillAndRestart,
    Isolate,
    /// Nothing is heard of it, or it hears nothing.
    IsolateOneWay,
    CutOneWay,
    /// Connections end, and nobody did.
    HangUp,
    Weather,
    SlowDisk,
    /// As SIGSTOP does, and a hypervisor.
    Stop,
    /// Time jumps for all at once: every timer is due.
    ClockJump,
    DiskFull,
    Heal,
}

/// Healing as often as a few others, or clients would seldom get an answer.
pub(crate) const ALL: [Fault; 18] = [
    Fault::CutPower,
    Fault::CutPowerOfSome,
    Fault::CutPowerInSync,
    Fault::Kill,
    Fault::KillAndRestart,
    Fault::Isolate,
    Fault::IsolateOneWay,
    Fault::CutOneWay,
    Fault::HangUp,
    Fault::Weather,
    Fault::SlowDisk,
    Fault::Stop,
    Fault::ClockJump,
    Fault::DiskFull,
    Fault::Heal,
    Fault::Heal,
    Fault::Heal,
    Fault::Heal,
];

impl Cluster {
    /// One fault, on any member.
    pub(crate) async fn fault(&self, fault: Fault) -> Result<(), String> {
        let slot = self.any();
        match fault {
            Fault::CutPower => self.cut_power(&slot),
            Fault::CutPowerOfSome => {
                self.slots().iter().filter(|_| one_in(2)).for_each(|slot| self.cut_power(slot));
            }
            Fault::CutPowerInSync => slot.disk.borrow().cut_after_syncs(below(6), Throws::new(draw())),
            Fault::Kill => self.kill(&slot),
            Fault::KillAndRestart => {
                self.kill(&slot);
                self.restart(&slot).await?;
            }
            Fault::Isolate => self.isolate(&slot, true, true),
            Fault::IsolateOneWay => {
                let hears = one_in(2);
                self.isolate(&slot, hears, !hears);
            }
            Fault::CutOneWay => self.network.cut(slot.id, self.any().id),
            Fault::HangUp => self.network.hang_up(slot.id),
            Fault::Weather => self.network.set_weather(below(300), 1 + below(80)),
            Fault::SlowDisk => {
                if let Some(running) = slot.running() {
                    running.process.set_slowest_micros(below(400_000));
                }
            }
            Fault::Stop => Self::stop_for_a_while(&slot),
            Fault::ClockJump => tokio::time::advance(Duration::from_millis(500 + below(20_000))).await,
            Fault::DiskFull => {
                let disk = slot.disk.borrow();
                disk.set_capacity(disk.used() + (256 << 10) + below(512 << 10));
            }
            Fault::Heal => {
                self.network.heal();
                for slot in self.slots() {
                    slot.disk.borrow().set_capacity(None);
                    if let Some(running) = slot.running() {
                        running.process.set_slowest_micros(0);
                    }
                }
                self.disarm().await;
            }
        }
        Ok(())
    }

    /// Cuts what a member says, what it hears, or both.
    pub(crate) fn isolate(&self, slot: &Slot, speech: bool, hearing: bool) {
        for other in self.slots().iter().filter(|other| other.id != slot.id) {
            if hearing {
                self.network.cut(other.id, slot.id);
            }
            if speech {
                self.network.cut(slot.id, other.id);
            }
        }
    }

    /// As an operator does when there is space again.
    async fn disarm(&self) {
        if let Some(running) = self.any().running() {
            let disarming = running.process.scope(running.services.disarm());
            // If it fails, the end of the history sees to it.
            _ = tokio::time::timeout(Duration::from_secs(1), disarming).await;
        }
    }

    fn stop_for_a_while(slot: &Slot) {
        let Some(running) = slot.running() else { return };
        running.process.stop();
        let millis = 100 + below(3000);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            running.process.go_on();
        });
    }
}
