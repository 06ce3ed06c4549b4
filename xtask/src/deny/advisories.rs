//! The known vulnerabilities of what `Cargo.lock` names, from a copy of the RustSec advisory database.
//!
//! The database is a folder of Markdown files, each with its facts in front; reading them takes a page of code and
//! no network, where the usual tools fetch the database with git before they look.

use crate::process;
use anyhow::{Context, Result, bail};
use semver::{Version, VersionReq};
use std::{fs, path::Path};

/// Compares `Cargo.lock` with the database at `database`; returns why it was left out when there is none.
///
/// Vulnerable and unsound versions are an error; an unmaintained crate is only named. `deny.toml` lists the excepted
/// ones, each with its reason.
pub(crate) fn check(database: Option<&Path>) -> Result<Option<String>> {
    let Some(database) = database else {
        return Ok(Some("no advisory database; name a copy with --advisory-db DIR".to_owned()));
    };
    let root = process::root();
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let exceptions = fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let packages = packages(&lock)?;
    let mut errors = 0;
    for (name, version) in &packages {
        for advisory in of_crate(&database.join("crates").join(name))? {
            let excepted = exceptions.contains(&format!("\"{}\"", advisory.id));
            if excepted || !advisory.concerns(version) {
                continue;
            }
            errors += usize::from(advisory.kind != Kind::Unmaintained);
            let (id, kind, title) = (&advisory.id, advisory.kind.word(), &advisory.title);
            println!("{name} {version}: {kind}: {id}: {title}; patched: {}", advisory.patched.join(" or "));
        }
    }
    println!("{} packages compared with the advisories", packages.len());
    if errors > 0 {
        bail!(
            "{errors} package version(s) with a known fault; update them (`cargo update -p NAME`), or except the advisory in deny.toml with a reason"
        );
    }
    Ok(None)
}

/// What `[[package]]` entries of a lock file name.
fn packages(lock: &str) -> Result<Vec<(String, Version)>> {
    let mut found = Vec::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(value) = value(line, "name") {
            name = value;
        } else if let Some(version) = value(line, "version")
            && !name.is_empty()
        {
            let parsed = Version::parse(version).with_context(|| format!("Cargo.lock: version of {name}"))?;
            found.push((std::mem::take(&mut name).to_owned(), parsed));
        }
    }
    if found.is_empty() {
        bail!("Cargo.lock names no package");
    }
    Ok(found)
}

/// The string of `key = "string"`.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim().strip_prefix('"')?.strip_suffix('"')
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vulnerable,
    Unsound,
    Unmaintained,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Vulnerable => "vulnerable",
            Self::Unsound => "unsound",
            Self::Unmaintained => "not maintained, or worth a note",
        }
    }
}

#[derive(Debug)]
struct Advisory {
    id: String,
    title: String,
    kind: Kind,
    withdrawn: bool,
    patched: Vec<String>,
    unaffected: Vec<String>,
}

impl Advisory {
    /// The facts in front of an advisory's Markdown, a TOML block of which five keys matter here.
    fn parse(text: &str) -> Result<Self> {
        let facts = text
            .strip_prefix("```toml")
            .and_then(|rest| rest.split_once("```"))
            .context("no ```toml block in front")?;
        let find = |key| facts.0.lines().find_map(|line| value(line, key));
        Ok(Self {
            id: find("id").context("no id")?.to_owned(),
            title: facts.1.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or("no title").to_owned(),
            kind: match find("informational") {
                None => Kind::Vulnerable,
                Some("unsound") => Kind::Unsound,
                Some(_) => Kind::Unmaintained,
            },
            withdrawn: find("withdrawn").is_some(),
            patched: array(facts.0, "patched"),
            unaffected: array(facts.0, "unaffected"),
        })
    }

    /// A requirement that cannot be read counts as not met: better one report too many.
    fn concerns(&self, version: &Version) -> bool {
        let free = self.patched.iter().chain(&self.unaffected);
        !self.withdrawn && !free.filter_map(|text| VersionReq::parse(text).ok()).any(|range| range.matches(version))
    }
}

/// The strings of `key = ["…", "…"]`, on one line or several.
fn array(facts: &str, key: &str) -> Vec<String> {
    let start = facts.lines().scan(0, |at, line| {
        let from = *at;
        *at += line.len() + 1;
        Some((from, line))
    });
    let mut starts =
        start.filter(|(_, line)| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')));
    let Some((from, _)) = starts.next() else { return Vec::new() };
    let inside =
        facts[from..].split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(inside, _)| inside);
    inside.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

fn of_crate(folder: &Path) -> Result<Vec<Advisory>> {
    let Ok(entries) = folder.read_dir() else { return Ok(Vec::new()) };
    let mut advisories = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "md") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            advisories.push(Advisory::parse(&text).with_context(|| format!("cannot understand {}", path.display()))?);
        }
    }
    Ok(advisories)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2024-0001\"\npackage = \"a\"\n\n[versions]\n\
        patched = [\n  \">= 0.23.5\",\n  \">= 0.22.4, < 0.23.0\",\n]\nunaffected = [\"< 0.20\"]\n```\n\n# It may stop\n";

    fn concerns(version: &str) -> bool {
        Advisory::parse(ADVISORY).unwrap().concerns(&Version::parse(version).unwrap())
    }

    #[test]
    fn a_version_between_the_patched_and_the_unaffected_ones_is_concerned() {
        assert!(concerns("0.23.4") && concerns("0.22.3") && concerns("0.20.0"));
        assert!(!concerns("0.23.5") && !concerns("0.22.9") && !concerns("0.19.7"));
    }

    #[test]
    fn a_withdrawn_advisory_concerns_nobody_and_the_kind_is_read() {
        let withdrawn = ADVISORY.replace("package", "withdrawn = \"2024-02-02\"\npackage");
        assert!(!Advisory::parse(&withdrawn).unwrap().concerns(&Version::new(0, 23, 4)));
        assert_eq!(Advisory::parse(ADVISORY).unwrap().kind, Kind::Vulnerable);
        let unsound = ADVISORY.replace("package", "informational = \"unsound\"\npackage");
        assert_eq!(Advisory::parse(&unsound).unwrap().kind, Kind::Unsound);
        assert_eq!(Advisory::parse(ADVISORY).unwrap().title, "It may stop");
    }

    #[test]
    fn a_lock_file_names_its_packages() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\nsource = \"x\"\n";
        assert_eq!(packages(lock).unwrap(), [("a".to_owned(), Version::new(1, 2, 3))]);
        assert!(packages("").is_err());
    }
}
