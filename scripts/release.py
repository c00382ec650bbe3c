#!/usr/bin/env python3
"""What a release is checked with; docs/RELEASE.md says when. Everything not marked `publish = false` is a package.

release.py package [--verify]   writes target/package/*.crate and looks into each; --verify builds them as well
release.py semver               compares each library's public API with that of its latest tag, NAME-vVERSION
"""

import json
import pathlib
import re
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVERY_PACKAGE_HAS = ("Cargo.toml", "README.md", "LICENSE-APACHE", "LICENSE-MIT")
EVERY_MANIFEST_SAYS = ("description", "license", "repository", "rust_version", "keywords", "categories")
# What the package registry accepts, and tells only when a package is uploaded.
LARGEST_PACKAGE = 10 * 1024 * 1024
MOST_KEYWORDS = MOST_CATEGORIES = 5
KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,19}")


def main(arguments):
    if arguments in (["package"], ["package", "--verify"]):
        return package(verify=arguments[1:] == ["--verify"])
    if arguments == ["semver"]:
        return semver()
    print(f"release.py: unknown arguments {arguments}\n\n{__doc__}", file=sys.stderr)
    return 2


def package(verify):
    metadata = cargo_metadata()
    crates = published(metadata)
    if run("cargo", "package", "--locked", *([] if verify else ["--no-verify"]), *select(crates)):
        return 1
    folder = pathlib.Path(metadata["target_directory"], "package")
    faults = [fault for crate in crates for fault in faults_of(crate, folder)]
    for fault in faults:
        print(f"release.py: {fault}", file=sys.stderr)
    if not faults:
        built = "built from their packages" if verify else "not built"
        print(f"{len(crates)} packages in {folder}, {built}: {', '.join(names(crates))}")
    return 1 if faults else 0


def faults_of(crate, folder):
    """What would be wrong with a package once it is published."""
    stem = f"{crate['name']}-{crate['version']}"
    archive = folder / f"{stem}.crate"
    faults = [f"says no {key}" for key in EVERY_MANIFEST_SAYS if not crate[key]]
    faults += [f"has the keyword {word!r}" for word in crate["keywords"] if not KEYWORD.fullmatch(word)]
    faults += [f"has more than {MOST_KEYWORDS} keywords"] if len(crate["keywords"]) > MOST_KEYWORDS else []
    faults += [f"has more than {MOST_CATEGORIES} categories"] if len(crate["categories"]) > MOST_CATEGORIES else []
    if archive.stat().st_size > LARGEST_PACKAGE:
        faults.append(f"is larger than {LARGEST_PACKAGE} bytes")
    with tarfile.open(archive) as contents:
        members = {member.name: member for member in contents.getmembers()}
    for name in EVERY_PACKAGE_HAS:
        member = members.get(f"{stem}/{name}")
        # A link that nobody followed leads nowhere in a package.
        if member is None or not member.isfile() or member.size == 0:
            faults.append(f"has no {name}")
    return [f"{stem} {fault}" for fault in faults]


def semver():
    libraries = [crate for crate in published(cargo_metadata()) if has_library(crate)]
    baselines = {name: latest_tag(name) for name in names(libraries)}
    compared = {name: tag for name, tag in baselines.items() if tag}
    for name in sorted(baselines.keys() - compared.keys()):
        print(f"{name}: NOT COMPARED, for there is no tag {name}-v*: it was never released")
    if not compared:
        print("No API was compared: this is the state before the first release.")
        return 0
    if run("cargo", "semver-checks", "--version"):
        print("release.py: cargo-semver-checks is missing: cargo install cargo-semver-checks --locked", file=sys.stderr)
        return 1
    # All of them, so that one run tells everything that is to be done.
    failed = [
        name
        for name, tag in sorted(compared.items())
        if run("cargo", "semver-checks", "--all-features", "--package", name, "--baseline-rev", tag)
    ]
    if failed:
        print(f"release.py: too small a step of the version, or a change to take back: {failed}", file=sys.stderr)
    return 1 if failed else 0


def latest_tag(name):
    """The tag of the crate's highest version; None before its first release."""
    # A digit follows, so that hydratecache-v1.0.0 is no tag of another crate. Pre-releases come before the release.
    command = ("git", "-c", "versionsort.suffix=-", "tag", "--sort=-version:refname", "--list", f"{name}-v[0-9]*")
    tags = output(*command).split()
    return tags[0] if tags else None


def published(metadata):
    members = set(metadata["workspace_members"])
    crates = [crate for crate in metadata["packages"] if crate["id"] in members and crate["publish"] != []]
    return sorted(crates, key=lambda crate: crate["name"])


def has_library(crate):
    return any("lib" in target["kind"] for target in crate["targets"])


def names(crates):
    return [crate["name"] for crate in crates]


def select(crates):
    return [argument for name in names(crates) for argument in ("--package", name)]


def cargo_metadata():
    return json.loads(output("cargo", "metadata", "--format-version=1", "--no-deps", "--locked"))


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
