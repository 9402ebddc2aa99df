//! Slots that wait to be used, so that a sandbox does not wait for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::make::{MakeSlotError, Slot, SlotMaker};

/// Callers that may wait for a slot to be made for them; more wait to ask.
const ORDERS_MAX: usize = 64;

/// A few slots, made ahead on a thread of their own. A slot that was used is not
/// given back: it is dropped, and another made.
#[derive(Debug)]
pub struct SlotPool {
    ready: Arc<Ready>,
    orders: mpsc::Sender<Order>,
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub enum TakeSlotError {
    /// It could not be made.
    #[error(transparent)]
    Make(#[from] MakeSlotError),
    /// Nobody makes slots any more.
    #[error("the maker of network slots has stopped; restart the node")]
    Stopped,
}

#[derive(Debug)]
struct Ready {
    target: usize,
    slots: Mutex<VecDeque<Slot>>,
}

/// What the maker is asked for.
#[derive(Debug)]
enum Order {
    /// A slot for a caller who waits.
    For(oneshot::Sender<Result<Slot, MakeSlotError>>),
    /// As many as are missing.
    Fill,
}

impl SlotPool {
    /// A pool that is to hold `target` slots, 0 for none, and begins to make
    /// them. Fails when nothing can be made on this machine at all.
    pub fn start(target: usize) -> Result<Self, MakeSlotError> {
        let ready = Arc::new(Ready {
            target,
            slots: Mutex::default(),
        });
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let filled = Arc::clone(&ready);
        // Ends when the pool is dropped, after what it is at.
        thread::Builder::new()
            .name("network-slots".to_owned())
            .spawn(move || serve(inbox, &filled))
            .map_err(MakeSlotError::Maker)?;
        let pool = Self { ready, orders };
        pool.refill();
        Ok(pool)
    }

    /// A slot that waits, or else a new one. Nobody has used it before.
    pub async fn take(&self) -> Result<Slot, TakeSlotError> {
        let waiting = self.ready.slots.lock().pop_front();
        if let Some(slot) = waiting {
            self.refill();
            return Ok(slot);
        }
        let (reply, made) = oneshot::channel();
        let asked = self.orders.send(Order::For(reply)).await;
        asked.map_err(|_closed| TakeSlotError::Stopped)?;
        let made = made.await.map_err(|_closed| TakeSlotError::Stopped)?;
        self.refill();
        Ok(made?)
    }

    /// How many wait.
    pub fn ready_count(&self) -> usize {
        self.ready.slots.lock().len()
    }

    /// Asks for what is missing. With the orders full the maker is behind
    /// anyway, and the next to be served asks again.
    fn refill(&self) {
        self.orders.try_send(Order::Fill).ok();
    }
}

fn serve(mut inbox: mpsc::Receiver<Order>, ready: &Ready) {
    // Made here: it belongs to this thread.
    let mut maker = None;
    while let Some(order) = inbox.blocking_recv() {
        match order {
            // A caller who has gone leaves a slot that nobody has seen.
            Order::For(reply) => {
                if let Err(Ok(unused)) = reply.send(make(&mut maker)) {
                    ready.keep(unused);
                }
            }
            Order::Fill => fill(&inbox, ready, &mut maker),
        }
    }
}

/// Makes what is missing, unless somebody waits meanwhile or it cannot be made.
fn fill(inbox: &mpsc::Receiver<Order>, ready: &Ready, maker: &mut Option<SlotMaker>) {
    while ready.is_short() && inbox.is_empty() && !inbox.is_closed() {
        match make(maker) {
            Ok(slot) => ready.keep(slot),
            // The next caller tries again and is told.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no network slot");
                return;
            }
        }
    }
}

fn make(kept: &mut Option<SlotMaker>) -> Result<Slot, MakeSlotError> {
    let maker = match kept.take() {
        Some(maker) => maker,
        None => SlotMaker::new()?,
    };
    kept.insert(maker).make()
}

impl Ready {
    fn is_short(&self) -> bool {
        self.slots.lock().len() < self.target
    }

    fn keep(&self, slot: Slot) {
        let mut slots = self.slots.lock();
        if slots.len() < self.target {
            slots.push_back(slot);
        }
    }
}
