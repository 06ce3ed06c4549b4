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
    /// From clap's long form: headings at the line's start, options behind at most six spaces, their text on the lines
    /// below. Where no option has more than a line to say, clap puts the text behind it.
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
        for group in &mut help.groups {
            group.rows.retain(|row| !row.is_own_help());
            group.rows.iter_mut().for_each(Row::take_brackets);
        }
        help.groups.retain(|group| !group.rows.is_empty());
        help
    }

    /// A heading of `level`, what the command is for, how it is called, and a table a group. Where the tables would be
    /// those of `like`, a command with its title, the page only says so.
    pub(crate) fn markdown(&self, title: &str, level: usize, like: Option<(&str, &Self)>) -> String {
        let mut page = format!("\n{} `{title}`\n\n", "#".repeat(level));
        let about = self.about.join("\n");
        let _ = write!(page, "{}\n\n    {}\n", about.trim(), self.usage);
        if let Some((other, _)) = like.filter(|(_, help)| help.groups == self.groups && !self.groups.is_empty()) {
            let _ = write!(page, "\nIts options are those of `{other}`.\n");
            return page;
        }
        for group in &self.groups {
            let _ =
                write!(page, "\n{}\n\n| option | variable | default | meaning |\n|---|---|---|---|\n", group.heading);
            for row in &group.rows {
                // A default that is a sentence is no code.
                let default = if row.default.contains(' ') { prose(&row.default) } else { code(&row.default) };
                let cells = [code(&row.option), code(&row.variable), default, prose(&row.meaning)];
                let _ = writeln!(page, "| {} |", cells.join(" | "));
            }
        }
        page
    }
}

impl Group {
    fn take(&mut self, indent: usize, words: &str) {
        if (1..=6).contains(&indent) && (words.starts_with('-') || words.starts_with('<') || words.starts_with('[')) {
            let (option, meaning) = words.split_once("  ").unwrap_or((words, ""));
            let (option, meaning) = (option.to_owned(), meaning.trim().to_owned());
            self.rows.push(Row { option, meaning, ..Row::default() });
        } else if let Some(row) = self.rows.last_mut() {
            row.say(if words == "Possible values:" { "One of:" } else { words });
        }
    }
}

impl Row {
    fn say(&mut self, words: &str) {
        let space = if self.meaning.is_empty() || words.is_empty() { "" } else { " " };
        self.meaning.push_str(space);
        self.meaning.push_str(words);
    }

    /// Moves what clap puts into brackets behind the text to its own columns.
    fn take_brackets(&mut self) {
        if let Some(variable) = cut(&mut self.meaning, "[env: ") {
            variable.trim_end_matches('=').clone_into(&mut self.variable);
        }
        self.default = cut(&mut self.meaning, "[default: ").unwrap_or_default();
        if let Some(values) = cut(&mut self.meaning, "[possible values: ") {
            self.say(&format!("One of: {values}."));
        }
    }

    /// `--help` and `--version` explain themselves.
    fn is_own_help(&self) -> bool {
        ["-h, --help", "-V, --version"].contains(&self.option.as_str())
    }
}

/// Takes `open…]` out of `text`; what was inside.
fn cut(text: &mut String, open: &str) -> Option<String> {
    let (before, rest) = text.split_once(open)?;
    // A default may have brackets of its own, such as `[::]:15012`.
    let mut depth = 1_usize;
    let end = rest.char_indices().find(|(_, letter)| {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    let (inside, after) = (rest[..end.0].to_owned(), rest[end.0 + 1..].trim());
    *text = [before.trim(), after].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
    Some(inside)
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", escape(text)) }
}

/// As [`escape`], and a star is a star (`*.yaml`).
fn prose(text: &str) -> String {
    escape(text).replace('*', "\\*")
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
        let page = Help::parse(TEXT).markdown("heddle-proxy", 2, None);
        assert!(page.contains("\n## `heddle-proxy`\n\nCarries a pod's connections.\n\nRuns beside it.\n"), "{page}");
        assert!(
            page.contains(
                "\n| `--workers <N>` | `HEDDLE_WORKERS` | `1` | Data threads. Each has its own listeners |\n"
            ),
            "{page}"
        );
        assert!(page.contains("`--log <a\\|b>`"), "{page}");
    }

    #[test]
    fn short_lines_and_brackets_in_the_text_are_understood() {
        let text = "About.\n\nUsage: x\n\nOptions:\n      --state <DIR>  Folder [env: HEDDLE_STATE=] [default: /var]\n      \
            --listen <A>   Where it\n                     listens [env: HEDDLE_LISTEN=] [default: [::]:1]\n  -h, --help  Print help\n";
        let help = Help::parse(text);
        let rows = &help.groups[0].rows;
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].option.as_str(), rows[0].variable.as_str()), ("--state <DIR>", "HEDDLE_STATE"));
        assert_eq!((rows[0].default.as_str(), rows[0].meaning.as_str()), ("/var", "Folder"));
        assert_eq!((rows[1].default.as_str(), rows[1].meaning.as_str()), ("[::]:1", "Where it listens"));
    }

    #[test]
    fn a_command_with_the_options_of_another_refers_to_it() {
        let help = Help::parse(TEXT);
        assert!(help.markdown("y", 3, Some(("x", &help))).ends_with("\nIts options are those of `x`.\n"));
    }
}
