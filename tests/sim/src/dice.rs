//! What a seed decides: one source of randomness for a whole simulation.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Shared by everything that is simulated. There is one thread, so the order of rolls follows from the seed too.
#[derive(Clone, Debug)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub fn roll<T>(&self, roll: impl FnOnce(&mut StdRng) -> T) -> T {
        roll(&mut self.0.lock().expect("one thread, which does not panic here"))
    }

    pub fn chance(&self, probability: f64) -> bool {
        self.roll(|rng| rng.gen_bool(probability))
    }

    pub fn within(&self, range: RangeInclusive<u64>) -> u64 {
        self.roll(|rng| rng.gen_range(range))
    }

    pub fn one_of<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        let last = among.len().checked_sub(1)?;
        Some(&among[self.roll(|rng| rng.gen_range(0..=last))])
    }

    /// One of them, the heavier the likelier.
    pub fn weighted<T: Copy>(&self, among: &[(u32, T)]) -> T {
        let total: u32 = among.iter().map(|(weight, _)| weight).sum();
        let mut at = self.roll(|rng| rng.gen_range(0..total));
        for (weight, one) in among {
            match at.checked_sub(*weight) {
                None => return *one,
                Some(rest) => at = rest,
            }
        }
        unreachable!("the weights sum up to the total")
    }
}
