//! The result for people (an aligned table) and for programs (JSON), and whether the goals are met.

use crate::{
    bed::Subject,
    measure::{Figures, Measure},
};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    /// In the order of [`Subject::ALL`]; only what was run.
    pub(crate) subjects: Vec<(Subject, Figures)>,
    /// What was run and on what, by name: versions, rounds, seconds, machine.
    pub(crate) facts: Vec<(&'static str, String)>,
}

/// A measure with a goal, judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    /// What the goal is about.
    pub(crate) measure: Measure,
    /// Heddle's median through Envoy's.
    pub(crate) ratio: f64,
    /// Largest ratio that meets the goal.
    pub(crate) ratio_max: f64,
}

impl Verdict {
    /// Whether Heddle is as lean as promised.
    pub(crate) fn met(&self) -> bool {
        self.ratio <= self.ratio_max
    }
}

impl Results {
    fn median(&self, subject: Subject, measure: Measure) -> Option<f64> {
        self.subjects.iter().find(|(name, _)| *name == subject)?.1.median(measure)
    }

    /// Heddle's median through Envoy's, where both were measured.
    fn ratio(&self, measure: Measure) -> Option<f64> {
        Some(self.median(Subject::Heddle, measure)? / self.median(Subject::Envoy, measure)?)
    }

    /// The median with eBPF through that with TPROXY, where both were measured.
    fn ebpf_to_tproxy(&self, measure: Measure) -> Option<f64> {
        Some(self.median(Subject::HeddleEbpf, measure)? / self.median(Subject::Heddle, measure)?)
    }

    /// Every goal that this run can judge.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let judge =
            |measure: Measure| Some(Verdict { measure, ratio: self.ratio(measure)?, ratio_max: measure.goal()? });
        Measure::ALL.into_iter().filter_map(judge).collect()
    }

    /// The table and the facts below it, in plain text.
    pub(crate) fn text(&self) -> String {
        let mut rows = vec![self.header()];
        rows.extend(Measure::ALL.into_iter().map(|measure| self.row(measure)));
        let mut text = align(&rows);
        text.push('\n');
        for (name, value) in &self.facts {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "{name}: {value}");
        }
        text
    }

    fn header(&self) -> Vec<String> {
        let names = self.subjects.iter().map(|(subject, _)| subject.name().to_owned());
        let last = ["ebpf/tproxy", "heddle/envoy", "goal", ""].map(str::to_owned);
        std::iter::once(String::new()).chain(names).chain(last).collect()
    }

    fn row(&self, measure: Measure) -> Vec<String> {
        let absent = || "-".to_owned();
        let decimals = measure.decimals();
        let mut row = vec![measure.label().to_owned()];
        for (_, figures) in &self.subjects {
            row.push(figures.median(measure).map_or_else(absent, |value| format!("{value:.decimals$}")));
        }
        row.push(self.ebpf_to_tproxy(measure).map_or_else(absent, |ratio| format!("{ratio:.2}")));
        let ratio = self.ratio(measure);
        row.push(ratio.map_or_else(absent, |ratio| format!("{ratio:.2}")));
        row.push(measure.goal().map_or_else(String::new, |goal| format!("<= {goal}")));
        let verdict = ratio.zip(measure.goal());
        row.push(verdict.map_or("", |(ratio, goal)| if ratio <= goal { "met" } else { "missed" }).to_owned());
        row
    }

    /// The same with every round's value.
    pub(crate) fn json(&self) -> Value {
        let subjects: Map<_, _> =
            self.subjects.iter().map(|(subject, figures)| (subject.name().to_owned(), figures_json(figures))).collect();
        let ratios: Map<_, _> = Measure::ALL
            .into_iter()
            .filter_map(|measure| Some((measure.key().to_owned(), json!(self.ratio(measure)?))))
            .collect();
        let goals: Vec<_> = self
            .verdicts()
            .iter()
            .map(|verdict| {
                json!({
                    "measure": verdict.measure.key(),
                    "ratio": verdict.ratio,
                    "ratio_max": verdict.ratio_max,
                    "met": verdict.met(),
                })
            })
            .collect();
        let facts: Map<_, _> = self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let modes: Map<_, _> = Measure::ALL
            .into_iter()
            .filter_map(|measure| Some((measure.key().to_owned(), json!(self.ebpf_to_tproxy(measure)?))))
            .collect();
        json!({
            "bench": "l4",
            "facts": facts,
            "subjects": subjects,
            "ebpf_to_tproxy": modes,
            "heddle_to_envoy": ratios,
            "goals": goals,
        })
    }
}

fn figures_json(figures: &Figures) -> Value {
    let measured = Measure::ALL.into_iter().filter_map(|measure| {
        let median = figures.median(measure)?;
        Some((measure.key().to_owned(), json!({ "median": median, "rounds": figures.rounds(measure) })))
    });
    Value::Object(measured.collect())
}

/// First column to the left, the others to the right, two spaces between.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _infallible = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(heddle_us: f64) -> Results {
        let figures = |value: f64| {
            let mut figures = Figures::default();
            figures.push(Measure::CpuPerRequest, value);
            figures
        };
        let subjects = vec![(Subject::Heddle, figures(heddle_us)), (Subject::Envoy, figures(20.0))];
        Results { subjects, facts: vec![("rounds", "1".to_owned())] }
    }

    #[test]
    fn a_goal_is_met_at_its_bound_and_missed_above() {
        assert!(results(12.0).verdicts()[0].met());
        assert!(!results(12.1).verdicts()[0].met());
        let text = results(16.0).text();
        let row = text.lines().find(|line| line.starts_with("proxy CPU us/request")).unwrap();
        let cells: Vec<_> = row.split_ascii_whitespace().skip(3).collect();
        assert_eq!(cells, ["16.0", "20.0", "-", "0.80", "<=", "0.6", "missed"]);
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let json = results(12.0).json();
        assert_eq!(json["heddle_to_envoy"].as_object().unwrap().len(), 1);
        assert_eq!(json["subjects"]["envoy"]["proxy_cpu_us_per_request"]["median"], 20.0);
    }
}
