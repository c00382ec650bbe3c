//! What a sample says of the whole.

/// How many of the compared entries were what the source had, and what that says of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    compared: u64,
    divergent: u64,
}

impl Agreement {
    pub(in crate::cache) fn new(compared: u64, divergent: u64) -> Self {
        Self { compared, divergent: divergent.min(compared) }
    }

    /// How many entries were compared, to a result.
    #[must_use]
    pub fn compared(self) -> u64 {
        self.compared
    }

    /// How many of them differed.
    #[must_use]
    pub fn divergent(self) -> u64 {
        self.divergent
    }

    /// The share of the compared entries that were equal; none if none was compared.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "what a share needs is there below 2^53")]
    pub fn share(self) -> Option<f64> {
        (self.compared > 0).then(|| 1.0 - self.divergent as f64 / self.compared as f64)
    }

    /// The share of all entries that are equal, at least, with `confidence` (a part of 1, such as
    /// 0.95; what is outside is taken as the nearest of 0 and 0.999 999 999).
    ///
    /// With `d` of `n` divergent it is `1 - p`, where `p` is the largest share of divergent entries
    /// with `n · D(d/n ‖ p) ≤ ln(1 / (1 - confidence))` and `D(a ‖ p)` is
    /// `a·ln(a/p) + (1-a)·ln((1-a)/(1-p))`: Chernoff's bound, which never promises too much. Without a divergence it is exact,
    /// `(1 - confidence)^(1/n)`, which for 95 % is the rule of three: `1 - 3/n`.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "what a share needs is there below 2^53")]
    pub fn share_at_least(self, confidence: f64) -> f64 {
        1.0 - self.divergent_at_most(confidence)
    }

    /// The same as nines: 3 means that at least 0.999 of all entries are equal, 0 that nothing is
    /// known.
    #[must_use]
    pub fn nines(self, confidence: f64) -> f64 {
        // Without the way over 1 - p, which has 16 digits only; and never as -0.
        (-self.divergent_at_most(confidence).log10()).max(0.0)
    }

    #[allow(clippy::cast_precision_loss, reason = "what a share needs is there below 2^53")]
    fn divergent_at_most(self, confidence: f64) -> f64 {
        if self.compared == 0 {
            return 1.0;
        }
        let doubt =
            1.0 - if confidence.is_nan() { 0.0 } else { confidence.clamp(0.0, 0.999_999_999) };
        let compared = self.compared as f64;
        let most = -doubt.ln() / compared;
        if self.divergent == 0 {
            return -(-most).exp_m1();
        }
        let seen = self.divergent as f64 / compared;
        let (mut low, mut high) = (seen, 1.0);
        // Each step halves the doubt: 60 leave less than a double can hold.
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if distance(seen, middle) > most { high = middle } else { low = middle }
        }
        high
    }
}

/// The relative entropy of a coin that shows heads with the probability `a` to one with `p`.
fn distance(a: f64, p: f64) -> f64 {
    let term = |a: f64, p: f64| if a == 0.0 { 0.0 } else { a * (a / p).ln() };
    term(a, p) + term(1.0 - a, 1.0 - p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_divergence_the_rule_of_three_holds() {
        for compared in [30, 1_000, 1_000_000, 1_000_000_000_000] {
            let p = 1.0 - Agreement::new(compared, 0).share_at_least(0.95);
            #[allow(clippy::cast_precision_loss)]
            let three = p * compared as f64;
            assert!((2.85..=3.0).contains(&three), "{three} of {compared}");
        }
        let nines = Agreement::new(3_000_000, 0).nines(0.95);
        assert!((nines - 6.0).abs() < 0.01, "{nines}");
    }

    #[test]
    fn with_divergences_it_promises_less_than_the_sample_shows() {
        let agreement = Agreement::new(10_000, 10);
        let at_least = agreement.share_at_least(0.95);
        assert_eq!(agreement.share(), Some(0.999));
        // The exact bound (Clopper and Pearson) is 0.998 303.
        assert!((0.9978..0.9984).contains(&at_least), "{at_least}");
        assert!(agreement.share_at_least(0.99) < at_least);
        assert!(Agreement::new(7, 7).share_at_least(0.95) < 1e-9);
    }

    #[test]
    fn of_nothing_nothing_is_known() {
        let nothing = Agreement::new(0, 0);
        assert_eq!((nothing.share(), nothing.share_at_least(0.95)), (None, 0.0));
        assert!(nothing.nines(0.95).abs() < f64::EPSILON);
        for confidence in [f64::NAN, -1.0, 2.0, f64::INFINITY] {
            assert!((0.0..=1.0).contains(&Agreement::new(10, 0).share_at_least(confidence)));
        }
    }
}
