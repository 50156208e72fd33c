//! The names of accounts by number. An account is never renamed, so what is known once is known for ever.

use std::sync::{PoisonError, RwLock, mpsc};
use std::time::Duration;

use api::response::Names;
use ledger::{AccountId, AccountNumber, Event};
use shards::partition::{NotAccepted, Partition};

use super::block::StreamEvent;

/// How long to wait before a full queue is asked again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct NameCache {
    partition: Partition,
    /// By number; 24 bytes an account up to the highest that was streamed.
    known: RwLock<Vec<Option<AccountId>>>,
}

impl NameCache {
    pub(super) fn new(partition: Partition) -> NameCache {
        NameCache { partition, known: RwLock::default() }
    }

    /// Makes sure that every account of these events is known. Blocks; false when the partition is stopping.
    pub(super) fn learn(&self, events: &[StreamEvent]) -> bool {
        let mut missing = Vec::new();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = |account: AccountNumber| known.get(account.index()).is_some_and(Option::is_some);
        for event in events {
            if matches!(event.record.event, Event::AccountOpened { .. }) {
                continue;
            }
            let accounts = api::event::accounts(&event.record.event, event.command.as_ref());
            missing.extend(accounts.into_iter().flatten().filter(|account| !is_known(*account)));
        }
        drop(known);
        if missing.is_empty() {
            return true;
        }
        missing.sort_unstable();
        missing.dedup();
        let Some(names) = self.ask(&missing) else { return false };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (account, name) in missing.into_iter().zip(names) {
            if known.len() <= account.index() {
                known.resize(account.index() + 1, None);
            }
            known[account.index()] = name;
        }
        true
    }

    fn ask(&self, accounts: &[AccountNumber]) -> Option<Vec<Option<AccountId>>> {
        loop {
            let (sender, names) = mpsc::sync_channel(1);
            let asked = self.partition.query_names(accounts.to_vec(), move |names| {
                // Whoever asked is still waiting, unless its thread ended.
                let _ = sender.send(names);
            });
            match asked {
                Ok(()) => return names.recv().ok(),
                Err(NotAccepted::Overloaded) => std::thread::sleep(FULL_QUEUE_PAUSE),
                Err(NotAccepted::Stopping) => return None,
            }
        }
    }
}

impl Names for NameCache {
    fn name(&self, account: AccountNumber) -> String {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let name = known.get(account.index()).and_then(Option::as_ref);
        name.map_or_else(|| account.0.to_string(), |name| name.as_str().to_owned())
    }
}
