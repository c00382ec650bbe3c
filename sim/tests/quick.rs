//! The quick form of `make sim`.

use hydratecache_sim::run::simulate;

#[test]
fn fifty_seeds_break_no_promise() {
    let (mut events, mut digests) = (0, 0);
    for seed in 0..50 {
        let report = simulate(seed, false);
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        events += report.events;
        digests += report.digests;
    }
    assert!(events > 25_000, "so little happened: {events}");
    assert!(digests > 0, "no replica was repaired by another one");
}
