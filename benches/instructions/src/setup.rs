//! What makes counts differ though the code is the same.

use std::process::Command;

use anyhow::{Context, Result};

/// The compiler, and what else takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Each with its name.
    pub(crate) parts: Vec<(String, String)>,
}

impl Setup {
    /// Of this program, here.
    pub(crate) fn here() -> Result<Self> {
        let parts = [
            ("compiler", env!("BUILT_BY").to_owned()),
            ("target", format!("{} {}", std::env::consts::ARCH, std::env::consts::OS)),
            // Its memcpy and malloc are counted, too.
            ("libc", said_by("getconf", &["GNU_LIBC_VERSION"])?),
            ("valgrind", said_by("valgrind", &["--version"])?),
            // valgrind offers what the processor has, and glibc chooses its memcpy by it.
            ("processor", processor().to_owned()),
        ];
        let parts = parts.map(|(name, version)| (name.to_owned(), version));
        Ok(Self { parts: parts.into() })
    }

    /// What is different in `other`, in a sentence each.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let of_other = |name: &str| other.parts.iter().find(|(other, _)| other == name);
        let difference = |(name, version): &(String, String)| {
            let found = of_other(name).map_or("unknown", |(_, version)| version);
            (found != version)
                .then(|| format!("{name}: the baseline's is {version}, here it is {found}"))
        };
        self.parts.iter().filter_map(difference).collect()
    }
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("starting {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn processor() -> &'static str {
    match () {
        () if is_x86_feature_detected!("avx2") => "has AVX2",
        () if is_x86_feature_detected!("avx") => "has AVX, not AVX2",
        () => "has no AVX",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> &'static str {
    "any"
}
