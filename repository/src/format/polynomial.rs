//! The random irreducible polynomial over GF(2) that `config` holds. We cut chunks by FastCDC, but stock restic needs a
//! valid one to back up into the same repository, and our own gear table is derived from it.

/// A polynomial of degree 53, one bit a coefficient, as restic's chunker wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polynomial(pub u64);

/// The degree that restic's chunker uses.
const DEGREE: u32 = 53;

impl Polynomial {
    /// The first irreducible polynomial among candidates drawn from `random`. One in about 53 is; restic draws likewise.
    pub fn generate(mut random: impl FnMut() -> u64) -> Self {
        loop {
            let candidate = (random() & ((1 << (DEGREE + 1)) - 1)) | (1 << DEGREE) | 1;
            let polynomial = Self(candidate);
            if polynomial.is_irreducible() {
                return polynomial;
            }
        }
    }

    fn degree(self) -> u32 {
        63_u32.saturating_sub(self.0.leading_zeros())
    }

    /// Ben-Or's test: no common factor with x^(2^i) - x for i up to half the degree.
    #[must_use]
    pub fn is_irreducible(self) -> bool {
        if self.0 < 2 {
            return false;
        }
        let mut power = 2;
        for _ in 1..=self.degree() / 2 {
            power = self.square(power);
            if gcd(self.0, power ^ 2) != 1 {
                return false;
            }
        }
        true
    }

    /// The square of `value`, modulo this polynomial.
    fn square(self, value: u64) -> u64 {
        let mut wide = 0_u128;
        for bit in 0..64 {
            if value >> bit & 1 == 1 {
                wide |= 1 << (2 * bit);
            }
        }
        let degree = self.degree();
        for bit in (degree..128).rev() {
            if wide >> bit & 1 == 1 {
                wide ^= u128::from(self.0) << (bit - degree);
            }
        }
        u64::try_from(wide).expect("reduced below the degree")
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        let degree = Polynomial(b).degree();
        while a != 0 && Polynomial(a).degree() >= degree {
            a ^= b << (Polynomial(a).degree() - degree);
        }
        (a, b) = (b, a);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_polynomials() {
        // Written by stock restic.
        assert!(Polynomial(0x003d_a335_8b4d_c173).is_irreducible());
        assert!(Polynomial(0b111).is_irreducible());
        assert!(!Polynomial(0b101).is_irreducible());
        assert!(!Polynomial(0x003d_a335_8b4d_c172).is_irreducible());
        let reducible = (0..64).filter(|i| !Polynomial(0x003d_a335_8b4d_c173 ^ (i << 1)).is_irreducible()).count();
        assert!(reducible > 50);
    }

    #[test]
    fn generated_ones_have_degree_53() {
        let mut seed = 1_u64;
        let polynomial = Polynomial::generate(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed
        });
        assert!(polynomial.is_irreducible());
        assert_eq!(polynomial.0 >> DEGREE, 1);
    }
}
