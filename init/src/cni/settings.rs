//! How a pod is captured, as the plugin's configuration, annotations and records write it: the names of the options.

use crate::config::Args;
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The options of `heddle-init apply` that may differ from pod to pod. Their values are checked when capture is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// `--mode`.
    pub mode: String,
    /// `--guard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// `--exclude-inbound-ports`.
    #[serde(deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub exclude_inbound_ports: Vec<String>,
    /// `--exclude-outbound-ports`.
    #[serde(deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub exclude_outbound_ports: Vec<String>,
    /// `--exclude-inbound-cidrs`.
    #[serde(deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub exclude_inbound_cidrs: Vec<String>,
    /// `--exclude-outbound-cidrs`.
    #[serde(deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub exclude_outbound_cidrs: Vec<String>,
    /// `--exclude-inbound-interfaces`.
    #[serde(deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub exclude_inbound_interfaces: Vec<String>,
    /// `--exclude-outbound-interfaces`.
    #[serde(deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub exclude_outbound_interfaces: Vec<String>,
    /// `--dns`.
    pub dns: bool,
}

/// Which pods are captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// Those whose annotation `heddle.dev/capture` names a mode, `tproxy` or `ebpf`.
    #[default]
    Annotated,
    /// Every pod of the node's network whose annotation does not say `false`, also those without a proxy.
    All,
}

/// What is wrong with a pod's annotations.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// The value of one is none of those that it may have.
    #[error("annotation {name}: `{value}` is neither {allowed}")]
    Value {
        /// Which.
        name: String,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// Its name looks like one of ours, and is none.
    #[error("annotation {name} is not known; there are {}", EXCLUSIONS.join(", "))]
    Unknown {
        /// Which.
        name: String,
    },
}

impl Settings {
    /// What the options of a command line say.
    pub fn of(args: &Args) -> Self {
        let args = args.clone();
        Self {
            mode: args.mode,
            guard: args.guard,
            exclude_inbound_ports: args.exclude_inbound_ports,
            exclude_outbound_ports: args.exclude_outbound_ports,
            exclude_inbound_cidrs: args.exclude_inbound_cidrs,
            exclude_outbound_cidrs: args.exclude_outbound_cidrs,
            exclude_inbound_interfaces: args.exclude_inbound_interfaces,
            exclude_outbound_interfaces: args.exclude_outbound_interfaces,
            dns: args.dns,
        }
    }

    /// The options for one pod, whose cgroup and pins are found by its UID.
    pub fn args(&self, pod_uid: Option<&str>, bpffs: &Path) -> Args {
        let settings = self.clone();
        Args {
            mode: settings.mode,
            guard: settings.guard,
            cgroup: None,
            pod_uid: pod_uid.map(str::to_owned),
            bpffs: bpffs.to_owned(),
            exclude_inbound_ports: settings.exclude_inbound_ports,
            exclude_outbound_ports: settings.exclude_outbound_ports,
            exclude_inbound_cidrs: settings.exclude_inbound_cidrs,
            exclude_outbound_cidrs: settings.exclude_outbound_cidrs,
            exclude_inbound_interfaces: settings.exclude_inbound_interfaces,
            exclude_outbound_interfaces: settings.exclude_outbound_interfaces,
            dns: settings.dns,
        }
    }

    /// How a pod with these annotations is captured, where nothing else is said; none when it is not captured.
    ///
    /// # Errors
    /// When an annotation of ours has a value or a name that is none.
    pub fn for_pod(
        &self,
        select: Select,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, AnnotationError> {
        let mut settings = self.clone();
        match annotations.get(CAPTURE).map(|value| value.trim()) {
            Some(mode @ (TPROXY | EBPF)) => mode.clone_into(&mut settings.mode),
            Some("false") => return Ok(None),
            Some(value) => return Err(wrong(CAPTURE, value, "tproxy, ebpf nor false")),
            None if select == Select::All => {}
            None => return Ok(None),
        }
        for (name, value) in annotations.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            settings.override_with(name, value.trim())?;
        }
        Ok(Some(settings))
    }

    fn override_with(&mut self, name: &str, value: &str) -> Result<(), AnnotationError> {
        let list = match name {
            "heddle.dev/exclude-inbound-ports" => &mut self.exclude_inbound_ports,
            "heddle.dev/exclude-outbound-ports" => &mut self.exclude_outbound_ports,
            "heddle.dev/exclude-inbound-cidrs" => &mut self.exclude_inbound_cidrs,
            "heddle.dev/exclude-outbound-cidrs" => &mut self.exclude_outbound_cidrs,
            "heddle.dev/exclude-inbound-interfaces" => &mut self.exclude_inbound_interfaces,
            "heddle.dev/exclude-outbound-interfaces" => &mut self.exclude_outbound_interfaces,
            "heddle.dev/guard" => {
                self.guard = Some(value.to_owned());
                return Ok(());
            }
            "heddle.dev/dns" => {
                self.dns = value.parse().map_err(|_| wrong(name, value, "true nor false"))?;
                return Ok(());
            }
            // A mistyped exclusion would otherwise be captured traffic that nobody expects.
            _ if name.starts_with(EXCLUSION_PREFIX) => {
                return Err(AnnotationError::Unknown { name: name.to_owned() });
            }
            // Other parts of the mesh have annotations, too.
            _ => return Ok(()),
        };
        *list = split(value);
        Ok(())
    }
}

impl Default for Settings {
    /// Those of the command line.
    fn default() -> Self {
        Self { mode: TPROXY.to_owned(), ..Self::of(&Args::default()) }
    }
}

fn wrong(name: &str, value: &str, allowed: &'static str) -> AnnotationError {
    AnnotationError::Value { name: name.to_owned(), value: value.to_owned(), allowed }
}

/// Items between commas; nothing is no item.
fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// A list of strings and numbers, or one string with commas as on the command line.
fn items<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of strings or numbers, or one string with commas")]
    enum Items {
        One(String),
        Many(Vec<Item>),
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a number")]
    enum Item {
        Text(String),
        Number(u64),
    }
    Ok(match Items::deserialize(deserializer)? {
        Items::One(text) => split(&text),
        Items::Many(items) => {
            let text = |item| match item {
                Item::Text(text) => text,
                Item::Number(number) => number.to_string(),
            };
            items.into_iter().map(text).collect()
        }
    })
}

/// The annotation that asks for capture.
pub const CAPTURE: &str = "heddle.dev/capture";
const TPROXY: &str = "tproxy";
const EBPF: &str = "ebpf";
const PREFIX: &str = "heddle.dev/";
const EXCLUSION_PREFIX: &str = "heddle.dev/exclude";
const EXCLUSIONS: [&str; 6] = [
    "heddle.dev/exclude-inbound-ports",
    "heddle.dev/exclude-outbound-ports",
    "heddle.dev/exclude-inbound-cidrs",
    "heddle.dev/exclude-outbound-cidrs",
    "heddle.dev/exclude-inbound-interfaces",
    "heddle.dev/exclude-outbound-interfaces",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn for_pod(select: Select, annotations: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let base = Settings { exclude_outbound_ports: vec!["9".to_owned()], ..Settings::default() };
        base.for_pod(select, &annotations).map_err(|error| error.to_string())
    }

    #[test]
    fn only_pods_that_ask_are_captured_unless_all_are() {
        let mode = |select, annotations: &[_]| {
            for_pod(select, annotations).expect("nothing is wrong").map(|settings| settings.mode)
        };
        for (select, unasked) in [(Select::Annotated, None), (Select::All, Some("tproxy".to_owned()))] {
            assert_eq!(mode(select, &[]), unasked);
            assert_eq!(mode(select, &[("other/annotation", "x")]), unasked);
            assert_eq!(mode(select, &[(CAPTURE, "false")]), None);
            assert_eq!(mode(select, &[(CAPTURE, "ebpf")]), Some("ebpf".to_owned()));
            assert_eq!(mode(select, &[(CAPTURE, " tproxy\n")]), Some("tproxy".to_owned()));
        }
    }

    #[test]
    fn a_pods_exclusions_replace_those_of_the_node() {
        let asked = |more: (&str, &str)| for_pod(Select::Annotated, &[(CAPTURE, "tproxy"), more]);
        let settings = asked(("heddle.dev/exclude-outbound-ports", " 1, 2,")).expect("it is right").expect("captured");
        assert_eq!(settings.exclude_outbound_ports, ["1", "2"]);
        let settings = asked(("heddle.dev/guard", "strict")).expect("it is right").expect("captured");
        assert_eq!(settings.guard.as_deref(), Some("strict"));
        let settings = asked(("heddle.dev/dns", "true")).expect("it is right").expect("captured");
        assert!(settings.dns);
        assert_eq!(settings.exclude_outbound_ports, ["9"]);
        let settings = asked(("heddle.dev/exclude-outbound-ports", "")).expect("it is right").expect("captured");
        assert!(settings.exclude_outbound_ports.is_empty());
    }

    #[test]
    fn a_wrong_annotation_is_named() {
        let error = for_pod(Select::Annotated, &[(CAPTURE, "nftables")]).expect_err("it is no mode");
        assert_eq!(error, "annotation heddle.dev/capture: `nftables` is neither tproxy, ebpf nor false");
        let error = for_pod(Select::All, &[("heddle.dev/dns", "maybe")]).expect_err("it is no answer");
        assert_eq!(error, "annotation heddle.dev/dns: `maybe` is neither true nor false");
        let error = for_pod(Select::All, &[("heddle.dev/exclude-inbound-port", "1")]).expect_err("`s` is missing");
        assert!(error.starts_with("annotation heddle.dev/exclude-inbound-port is not known"), "{error}");
    }

    #[test]
    fn every_exclusion_has_its_annotation() {
        for name in EXCLUSIONS {
            let mut settings = Settings::default();
            settings.override_with(name, "x").expect("it is known");
            assert_ne!(settings, Settings::default(), "{name} changes nothing");
        }
    }

    #[test]
    fn lists_are_written_as_json_or_as_on_the_command_line() {
        let read = |text: &str| serde_json::from_str::<Settings>(text).map_err(|error| error.to_string());
        let lists = read(r#"{"excludeInboundPorts":[22,"80"],"excludeOutboundCidrs":"10.0.0.0/8, ::/0"}"#);
        let lists = lists.expect("it is right");
        assert_eq!(lists.exclude_inbound_ports, ["22", "80"]);
        assert_eq!(lists.exclude_outbound_cidrs, ["10.0.0.0/8", "::/0"]);
        assert_eq!(read(&serde_json::to_string(&lists).expect("it is text")), Ok(lists));
        assert!(read(r#"{"excludeInboundPorts":[{}]}"#).is_err());
        let unknown = read(r#"{"excludeInboundPort":[22]}"#).expect_err("`s` is missing");
        assert!(unknown.contains("unknown field `excludeInboundPort`"), "{unknown}");
    }
}
