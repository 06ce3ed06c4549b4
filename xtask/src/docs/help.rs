//! clap's long `--help`, read into its parts and written as Markdown.

use std::fmt::Write;

/// What one command says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Help {
    about: Vec<String>,
    usage: String,
    groups: Vec<Group>,
    /// The names of its subcommands, without `help`.
    pub(crate) subcommands: Vec<String>,
}

/// The options (or arguments) below one heading.
#[derive(Debug, Default, PartialEq, Eq)]
struct Group {
    heading: String,
    rows: Vec<Row>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    option: String,
    variable: String,
    default: String,
    meaning: String,
}

impl Help {
    /// From clap's long form: headings at the line's start, options behind at most six spaces, their text behind ten.
    pub(crate) fn parse(text: &str) -> Self {
        let mut help = Self::default();
        let mut heading = String::new();
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim();
            if let Some(usage) = line.strip_prefix("Usage: ") {
                usage.clone_into(&mut help.usage);
            } else if indent == 0 && words.ends_with(':') && !help.usage.is_empty() {
                words.trim_end_matches(':').clone_into(&mut heading);
                if heading != "Commands" {
                    help.groups.push(Group { heading: heading.clone(), rows: Vec::new() });
                }
            } else if help.usage.is_empty() {
                help.about.push(words.to_owned());
            } else if heading == "Commands" {
                let name = words.split_whitespace().next().filter(|name| indent == 2 && *name != "help");
                help.subcommands.extend(name.map(str::to_owned));
            } else if let Some(group) = help.groups.last_mut() {
                group.take(indent, words);
            }
        }
        help.groups.iter_mut().for_each(|group| group.rows.retain(|row| !row.is_own_help()));
        help.groups.retain(|group| !group.rows.is_empty());
        help
    }

    /// A heading of `level`, what the command is for, how it is called, and a table a group.
    pub(crate) fn markdown(&self, title: &str, level: usize) -> String {
        let mut page = format!("\n{} `{title}`\n\n", "#".repeat(level));
        let about = self.about.join("\n");
        let _ = write!(page, "{}\n\n    {}\n", about.trim(), self.usage);
        for group in &self.groups {
            let _ =
                write!(page, "\n{}\n\n| option | variable | default | meaning |\n|---|---|---|---|\n", group.heading);
            for row in &group.rows {
                let cells = [code(&row.option), code(&row.variable), code(&row.default), escape(&row.meaning)];
                let _ = writeln!(page, "| {} |", cells.join(" | "));
            }
        }
        page
    }
}

impl Group {
    fn take(&mut self, indent: usize, words: &str) {
        if (1..=6).contains(&indent) && (words.starts_with('-') || words.starts_with('<') || words.starts_with('[')) {
            self.rows.push(Row { option: words.to_owned(), ..Row::default() });
            return;
        }
        let Some(row) = self.rows.last_mut() else { return };
        if let Some(variable) = inside(words, "[env: ") {
            variable.trim_end_matches('=').clone_into(&mut row.variable);
        } else if let Some(default) = inside(words, "[default: ") {
            default.clone_into(&mut row.default);
        } else if let Some(values) = inside(words, "[possible values: ") {
            row.say(&format!("One of: {values}."));
        } else if words == "Possible values:" {
            row.say("One of:");
        } else {
            row.say(words);
        }
    }
}

impl Row {
    fn say(&mut self, words: &str) {
        let space = if self.meaning.is_empty() || words.is_empty() { "" } else { " " };
        self.meaning.push_str(space);
        self.meaning.push_str(words);
    }

    /// `--help` and `--version` explain themselves.
    fn is_own_help(&self) -> bool {
        ["-h, --help", "-V, --version"].contains(&self.option.as_str())
    }
}

fn inside<'a>(words: &'a str, open: &str) -> Option<&'a str> {
    words.strip_prefix(open)?.strip_suffix(']')
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", escape(text)) }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Carries a pod's connections.

Runs beside it.

Usage: heddle-proxy [OPTIONS] <COMMAND>

Commands:
  apply  Writes the rules
  help   Print this message

Options:
      --workers <N>
          Data threads. Each has
          its own listeners

          [env: HEDDLE_WORKERS=]
          [default: 1]

  -h, --help
          Print help

Logging:
      --log <a|b>
          How

          Possible values:
          - a: one
          - b: two
";

    #[test]
    fn the_parts_are_found() {
        let help = Help::parse(TEXT);
        assert_eq!(help.subcommands, ["apply"]);
        assert_eq!(help.usage, "heddle-proxy [OPTIONS] <COMMAND>");
        assert_eq!(help.groups.len(), 2);
        let row = &help.groups[0].rows[0];
        assert_eq!(help.groups[0].rows.len(), 1, "help is no option of ours");
        assert_eq!(
            (row.option.as_str(), row.variable.as_str(), row.default.as_str()),
            ("--workers <N>", "HEDDLE_WORKERS", "1")
        );
        assert_eq!(row.meaning, "Data threads. Each has its own listeners");
        assert_eq!(help.groups[1].rows[0].meaning, "How One of: - a: one - b: two");
    }

    #[test]
    fn the_page_has_one_line_an_option_and_no_bare_bar_in_a_cell() {
        let page = Help::parse(TEXT).markdown("heddle-proxy", 2);
        assert!(page.contains("\n## `heddle-proxy`\n\nCarries a pod's connections.\n\nRuns beside it.\n"), "{page}");
        assert!(
            page.contains(
                "\n| `--workers <N>` | `HEDDLE_WORKERS` | `1` | Data threads. Each has its own listeners |\n"
            ),
            "{page}"
        );
        assert!(page.contains("`--log <a\\|b>`"), "{page}");
    }
}
