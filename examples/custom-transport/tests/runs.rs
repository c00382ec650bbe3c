//! The program, as a reader runs it.

use std::process::Command;

#[test]
fn the_reader_hears_of_the_outage_and_of_both_writes() {
    let output = Command::new(env!("CARGO_BIN_EXE_custom-transport")).output().expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    let heard: Vec<&str> =
        shown.lines().filter_map(|line| line.strip_prefix("  reader: ")).collect();
    let [ada, disrupted, live, lost @ .., grace] = &heard[..] else {
        panic!("five events or more, not these: {heard:#?}");
    };
    assert_eq!((*ada, *grace), ("user:1 is Ada", "user:1 is Grace"));
    assert!(disrupted.starts_with("disrupted: "), "{disrupted}");
    assert_eq!(*live, "live again");
    // The outage, and the number of a publish whose outcome was unknown, if there was one.
    assert_eq!(lost.first(), Some(&"messages may have been lost"));
    assert!(lost.iter().all(|gap| gap.ends_with("lost")), "{lost:?}");
}
