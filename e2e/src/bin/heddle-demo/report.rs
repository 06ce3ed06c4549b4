//! What the demo prints: headings, aligned lines, and a verdict for each line that is evidence.

/// The report so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    checks: usize,
    failures: usize,
}

impl Report {
    /// Starts a part.
    pub(crate) fn heading(&mut self, text: &str) {
        println!("\n{text}");
    }

    /// A line that says something and proves nothing.
    pub(crate) fn line(&mut self, label: &str, text: &str) {
        println!("      {label:LABEL_WIDTH$} {text}");
    }

    /// A line of evidence: `holds` says whether it shows what it must.
    pub(crate) fn evidence(&mut self, label: &str, text: &str, holds: bool) {
        self.checks += 1;
        self.failures += usize::from(!holds);
        let verdict = if holds { "ok" } else { "NO" };
        println!("  {verdict}  {label:LABEL_WIDTH$} {text}");
    }

    /// Something that should have worked did not.
    pub(crate) fn failure(&mut self, text: &str) {
        self.checks += 1;
        self.failures += 1;
        println!("  NO  {text}");
    }

    /// Whether all of it holds.
    pub(crate) fn holds(&self) -> bool {
        self.failures == 0
    }

    /// The last line.
    pub(crate) fn conclude(&self) {
        match self.failures {
            0 => println!("\nall {} checks hold", self.checks),
            failures => println!("\n{failures} of {} checks do not hold", self.checks),
        }
    }
}

/// Width of the labels, so that what they stand for is in one column.
const LABEL_WIDTH: usize = 36;
