//! Which transactions a snapshot of PostgreSQL contains.

use hydratecache::cache::Snapshot;
use hydratecache::{Error, ErrorKind, Result};

/// The snapshot in the text of `pg_current_snapshot()`: `xmin:xmax:xip_list`.
///
/// What is below xmin is over, what is from xmax had not begun, and between them the list holds what
/// was in progress. Whether a transaction that is over was committed is no question here: those that
/// rolled back publish nothing.
pub(super) fn parse(text: &str) -> Result<Snapshot> {
    let parsed = parts(text).ok_or_else(|| {
        Error::new(
            ErrorKind::Broker,
            format!("reading a source: the server's snapshot {text:?} is of an unknown form"),
        )
    });
    let (least, next, in_progress) = parsed?;
    Ok(Snapshot::new(move |transaction| {
        transaction < least
            || transaction < next && in_progress.binary_search(&transaction).is_err()
    }))
}

fn parts(text: &str) -> Option<(u64, u64, Vec<u64>)> {
    let mut parts = text.split(':');
    let (least, next) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let list = parts.next()?;
    let numbers = list.split(',').filter(|number| !number.is_empty()).map(str::parse);
    let mut in_progress: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
    in_progress.sort_unstable();
    parts.next().is_none().then_some((least, next, in_progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_contains_what_was_over_when_it_was_taken() {
        let snapshot = parse("10:20:14,10,15").expect("legal");
        let contained: Vec<u64> = (8..22).filter(|number| snapshot.contains(*number)).collect();
        assert_eq!(contained, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
        let idle = parse("7:7:").expect("legal");
        assert!(idle.contains(6) && !idle.contains(7));
        for broken in ["", "1", "1:2", "1:2:x", "1:2:3:4", "a:2:"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }
}
