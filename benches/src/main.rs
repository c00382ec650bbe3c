//! Measures every figure and prints one line each.

use anyhow::Result;
use clap::Parser;
use hydratecache_bench::figures;
use hydratecache_bench::options::Options;
use hydratecache_bench::record::Recording;
use hydratecache_bench::report::Figure;

fn main() -> Result<()> {
    let options = Options::parse();
    let bench = options.bench()?;
    let mut recording = options.write.as_deref().map(Recording::into_folder).transpose()?;
    for group in figures::groups() {
        if !group.names.iter().any(|name| options.wants(name)) {
            continue;
        }
        for figure in (group.measure)(&bench)? {
            if options.wants(&figure.name) {
                print(&figure, options.json)?;
                if let Some(recording) = &mut recording {
                    recording.add(&figure);
                }
            }
        }
        // After each group: what was measured is kept if a later one fails.
        if let Some(recording) = &mut recording {
            recording.write(&bench)?;
        }
    }
    Ok(())
}

fn print(figure: &Figure, as_json: bool) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(figure)?);
    } else {
        println!("{figure}");
    }
    Ok(())
}
