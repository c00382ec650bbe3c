//! The quick form of `make sim`.

use hydratecache_sim::run::simulate;

#[test]
fn fifty_seeds_break_no_promise() {
    let mut events = 0;
    for seed in 0..50 {
        let report = simulate(seed, false);
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        events += report.events;
    }
    assert!(events > 25_000, "so little happened: {events}");
}
