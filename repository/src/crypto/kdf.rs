//! Password to key: scrypt, its cost bounded before any work is done.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::MasterKey;

/// scrypt's cost as a key file states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU and memory cost, a power of two.
    #[serde(rename = "N")]
    pub n: u64,
    /// Block size.
    pub r: u32,
    /// Parallelism; runs one after another here.
    pub p: u32,
}

impl Cost {
    /// What restic 0.14 to 0.19 calibrate to on common machines: 32 MiB, about half a second.
    pub const DEFAULT: Self = Self { n: 32_768, r: 8, p: 7 };
    /// For tests, and for passwords that are 256 random bits already.
    pub const LOW: Self = Self { n: 16, r: 8, p: 1 };

    /// The most memory a key file may ask for: restic's own calibration stays below 60 MB.
    const MAX_MEMORY_BYTES: u64 = 128 << 20;
    /// The most work a key file may ask for, as N * r * p: 16 times the default.
    const MAX_WORK: u64 = 16 * 32_768 * 8 * 7;

    /// # Errors
    /// A cost that no honest key file has, in words.
    pub fn check(self) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("scrypt cost N={}, r={}, p={} {why}", self.n, self.r, self.p));
        if !self.n.is_power_of_two() || self.n < 2 || self.r == 0 || self.p == 0 {
            return refuse("is not valid");
        }
        let memory = u64::from(self.r).saturating_mul(128).saturating_mul(self.n.saturating_add(u64::from(self.p)));
        let work = self.n.saturating_mul(u64::from(self.r)).saturating_mul(u64::from(self.p));
        if memory > Self::MAX_MEMORY_BYTES || work > Self::MAX_WORK {
            return refuse("is far above what any known program writes; refusing to spend it");
        }
        Ok(())
    }
}

/// Lanes of scrypt computed at once; each takes the memory that the cost says, 32 MiB by default.
const THREADS: usize = 2;

/// Derives the key that seals the master key.
///
/// # Errors
/// A cost out of bounds, in words.
pub fn derive(password: &str, salt: &[u8], cost: Cost) -> Result<MasterKey, String> {
    cost.check()?;
    let log_n = u8::try_from(cost.n.trailing_zeros()).expect("at most 63");
    let params = scrypt::Params::new(log_n, cost.r, cost.p).map_err(|error| error.to_string())?;
    let mut derived = Zeroizing::new([0; 64]);
    let threads = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().map_err(|error| error.to_string())?;
    threads.install(|| scrypt::scrypt(password.as_bytes(), salt, &params, derived.as_mut())).map_err(|error| error.to_string())?;
    Ok(MasterKey::from_derived(&derived))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_costs_are_refused_before_any_work() {
        for (n, r, p) in [(0, 8, 1), (3, 8, 1), (1 << 40, 8, 1), (1 << 20, 8, 1), (1 << 15, u32::MAX, 1), (2, 1, u32::MAX), (1, 1, 1)] {
            assert!(Cost { n, r, p }.check().is_err(), "N={n} r={r} p={p}");
        }
        assert!(Cost::DEFAULT.check().is_ok());
        // The largest that restic's calibration was seen to choose (60 MB).
        assert!(Cost { n: 65_536, r: 8, p: 3 }.check().is_ok());
    }
}
