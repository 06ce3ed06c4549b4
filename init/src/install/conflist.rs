//! Puts our plugin into the text of a network configuration list and takes it out again, and leaves every other byte.
//!
//! Invariant: pure. What was put in and taken out again is the text as it was, however it was written.

use crate::cni::configuration::{SUPPORTED, Version};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::ops::Range;

/// The type of our plugin, which is the name of its binary too.
pub const PLUGIN: &str = "heddle-init";

/// Why a list stays as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// It is not what the specification says. Perhaps somebody is writing it.
    #[error("it is not a network configuration ({0})")]
    Parse(String),
    /// Its plugins are in other files.
    #[error(
        "it has no plugins of its own: they are files in the folder of its name, put heddle-init there as the last by hand"
    )]
    NoPlugins,
    /// Our plugin would be called in a version that it does not speak.
    #[error("its cniVersion is `{0}`, and heddle-init speaks {spoken}", spoken = SUPPORTED.join(", "))]
    Version(String),
    /// Without our plugin nothing would be left.
    #[error("heddle-init is its only plugin; remove the file")]
    OnlyOurs,
}

/// The list with our plugin: where it is already, else behind all others.
///
/// # Errors
/// When it is no list that our plugin can be put into.
pub fn with(text: &str, plugin: &str) -> Result<String, ConflistError> {
    let list = List::parse(text)?;
    list.require_spoken()?;
    let Some((first, rest)) = list.ours.split_first() else {
        // As the last one is set off from what is before it.
        let last = list.elements.last().ok_or(ConflistError::NoPlugins)?;
        let before = &text[..last.start];
        let space = &before[before.trim_end().len()..];
        return Ok(format!("{},{space}{plugin}{}", &text[..last.end], &text[last.end..]));
    };
    let mut changed = text.to_owned();
    for twice in rest.iter().rev() {
        changed.replace_range(list.cut(*twice), "");
    }
    changed.replace_range(list.elements[*first].clone(), plugin);
    Ok(changed)
}

/// The list without our plugin.
///
/// # Errors
/// When it is no list, or nothing else is in it.
pub fn without(text: &str) -> Result<String, ConflistError> {
    let list = List::parse(text)?;
    if !list.ours.is_empty() && list.ours.len() == list.elements.len() {
        return Err(ConflistError::OnlyOurs);
    }
    let mut changed = text.to_owned();
    for ours in list.ours.iter().rev() {
        changed.replace_range(list.cut(*ours), "");
    }
    Ok(changed)
}

/// How many plugins the list has, and how many of them are ours.
///
/// # Errors
/// When it is no list.
pub fn count(text: &str) -> Result<(usize, usize), ConflistError> {
    List::parse(text).map(|list| (list.elements.len(), list.ours.len()))
}

/// Whether the network of this configuration is only the loopback interface: runtimes make that themselves.
pub fn is_loopback(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Either {
        #[serde(default)]
        plugins: Vec<Plugin>,
        #[serde(rename = "type", default)]
        kind: String,
    }
    let Ok(Either { plugins, kind }) = serde_json::from_str(text) else { return false };
    kind == LOOPBACK || (!plugins.is_empty() && plugins.iter().all(|plugin| plugin.kind == LOOPBACK))
}

/// A list of a single plugin, from the configuration of a network that is not a list, and ours.
///
/// # Errors
/// When it is none, or in a version that has no lists.
pub fn wrap(single: &str, plugin: &str) -> Result<String, ConflistError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Single {
        name: String,
        #[serde(default)]
        cni_version: String,
        #[serde(rename = "type")]
        _kind: String,
    }
    let Single { name, cni_version, .. } = serde_json::from_str(single).map_err(broken)?;
    spoken(&cni_version)?;
    let name = serde_json::to_string(&name).map_err(broken)?;
    let single = single.trim();
    Ok(format!(
        "{{\n  \"cniVersion\": \"{cni_version}\",\n  \"name\": {name},\n  \"plugins\": [\n{single},\n{plugin}\n  ]\n}}\n"
    ))
}

/// A list, with the places of its plugins in the text.
struct List {
    versions: Vec<String>,
    elements: Vec<Range<usize>>,
    /// Indices of ours.
    ours: Vec<usize>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
}

impl List {
    fn parse(text: &str) -> Result<Self, ConflistError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(rename = "name")]
            _name: String,
            cni_version: Option<String>,
            #[serde(default)]
            cni_versions: Vec<String>,
            #[serde(borrow)]
            plugins: Option<&'a RawValue>,
        }
        let wire: Wire<'_> = serde_json::from_str(text).map_err(broken)?;
        let plugins = wire.plugins.ok_or(ConflistError::NoPlugins)?;
        let raw: Vec<&RawValue> = serde_json::from_str(plugins.get()).map_err(broken)?;
        let mut list = Self { versions: wire.cni_versions, elements: Vec::new(), ours: Vec::new() };
        list.versions.extend(wire.cni_version);
        for (index, element) in raw.into_iter().enumerate() {
            let plugin: Plugin = serde_json::from_str(element.get())
                .map_err(|error| ConflistError::Parse(format!("plugin {}: {error}", index + 1)))?;
            // Borrowed from the text, so that the distance of the addresses is the place in it.
            let start = element.get().as_ptr() as usize - text.as_ptr() as usize;
            list.elements.push(start..start + element.get().len());
            if plugin.kind == PLUGIN {
                list.ours.push(index);
            }
        }
        if list.elements.is_empty() { Err(ConflistError::NoPlugins) } else { Ok(list) }
    }

    /// The runtime takes the highest version that it knows, which may be each of them.
    fn require_spoken(&self) -> Result<(), ConflistError> {
        if self.versions.is_empty() {
            return spoken("");
        }
        let number = |version: &&String| -> Vec<u32> { version.split('.').flat_map(str::parse).collect() };
        self.versions.iter().max_by_key(number).map_or(Ok(()), |highest| spoken(highest))
    }

    /// What goes with an element: the comma before it, for the first the one behind it.
    fn cut(&self, index: usize) -> Range<usize> {
        match index.checked_sub(1) {
            Some(before) => self.elements[before].end..self.elements[index].end,
            None => self.elements[0].start..self.elements.get(1).map_or(self.elements[0].end, |next| next.start),
        }
    }
}

fn spoken(version: &str) -> Result<(), ConflistError> {
    Version::parse(version).map(|_| ()).ok_or_else(|| ConflistError::Version(version.to_owned()))
}

fn broken(error: serde_json::Error) -> ConflistError {
    ConflistError::Parse(error.to_string())
}

const LOOPBACK: &str = "loopback";

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"{"type":"heddle-init","select":"all"}"#;

    const SHAPES: [&str; 4] = [
        r#"{"cniVersion":"0.3.1","name":"a","plugins":[{"type":"bridge"}]}"#,
        "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \"type\": \"flannel\",\n      \
         \"delegate\": {\"isDefaultGateway\": true}\n    },\n    {\n      \"type\": \"portmap\",\n      \
         \"capabilities\": {\"portMappings\": true}\n    }\n  ]\n}\n",
        "{\"plugins\": [ {\"type\": \"x\", \"big\": 123456789012345678901234567890, \"e\": 1e3, \"ä\": \"]\\\"\"}\t]\r\n, \"name\":\"b\", \
         \"cniVersions\": [\"0.4.0\", \"1.0.0\"] , \"unknown\": null }",
        "{\"name\":\"c\",\"cniVersion\":\"1.1.0\",\"plugins\":[\n\t{\"type\":\"cilium-cni\"}\n,\n\t{\"type\":\"tuning\"}\n]}",
    ];

    #[test]
    fn what_is_put_in_comes_out_and_nothing_else_changes() {
        for text in SHAPES {
            let changed = with(text, OURS).expect(text);
            let (all, ours) = count(&changed).expect("it is a list");
            assert_eq!((all, ours), (count(text).expect("it is a list").0 + 1, 1), "{changed}");
            assert_eq!(
                with(&changed, OURS).as_deref(),
                Ok(changed.as_str()),
                "putting it in twice is putting it in once"
            );
            assert_eq!(without(&changed).as_deref(), Ok(text));
            assert_eq!(without(text).as_deref(), Ok(text));
            let last: serde_json::Value = serde_json::from_str(&changed).expect("it is JSON");
            assert_eq!(last["plugins"][all - 1]["type"], PLUGIN);
        }
    }

    #[test]
    fn it_is_set_off_as_the_others_are() {
        let changed = with(SHAPES[1], OURS).expect("it is a list");
        assert!(changed.contains(&format!("    }},\n    {OURS}\n  ]\n}}\n")), "{changed}");
    }

    #[test]
    fn another_configuration_replaces_ours_where_it_is_and_a_second_one_goes() {
        let text =
            format!(r#"{{"name":"a","cniVersion":"1.0.0","plugins":[{{"type":"x"}}, {OURS} ,{{"type":"y"}},{OURS}]}}"#);
        let new = r#"{"type":"heddle-init"}"#;
        let expected =
            format!(r#"{{"name":"a","cniVersion":"1.0.0","plugins":[{{"type":"x"}}, {new} ,{{"type":"y"}}]}}"#);
        assert_eq!(with(&text, new), Ok(expected));
        let first = format!(r#"{{"name":"a","cniVersion":"1.0.0","plugins":[ {OURS}, {{"type":"x"}}]}}"#);
        assert_eq!(without(&first).as_deref(), Ok(r#"{"name":"a","cniVersion":"1.0.0","plugins":[ {"type":"x"}]}"#));
    }

    #[test]
    fn what_is_no_list_for_us_is_told() {
        let fails = |text: &str, part: &str| {
            let error = with(text, OURS).expect_err(text).to_string();
            assert!(error.contains(part), "{part:?} is not in {error}");
        };
        fails("", "EOF");
        fails("{", "EOF");
        fails("[]", "not a network configuration");
        fails(r#"{"name":"a"}"#, "no plugins of its own");
        fails(r#"{"name":"a","plugins":[]}"#, "no plugins of its own");
        fails(r#"{"name":"a","plugins":{}}"#, "not a network configuration");
        fails(r#"{"name":"a","plugins":[{"type":"x"},{}]}"#, "plugin 2: missing field `type`");
        fails(r#"{"name":"a","plugins":[{"type":"x"}]}"#, "its cniVersion is ``");
        fails(r#"{"name":"a","cniVersion":"0.2.0","plugins":[{"type":"x"}]}"#, "its cniVersion is `0.2.0`");
        fails(r#"{"name":"a","cniVersions":["1.10.0","1.1.0"],"plugins":[{"type":"x"}]}"#, "`1.10.0`");
        fails(&format!(r#"{{"name":"a","plugins":{}"#, "[".repeat(100_000)), "not a network configuration");
        let only = format!(r#"{{"name":"a","cniVersion":"1.0.0","plugins":[{OURS}]}}"#);
        assert_eq!(without(&only), Err(ConflistError::OnlyOurs));
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = r#" {"cniVersion":"0.3.1","name":"my\"net","type":"ptp","ipam":{"type":"dhcp"}} "#;
        let list = wrap(single, OURS).expect("it is a plugin");
        let list: serde_json::Value = serde_json::from_str(&list).expect("it is JSON");
        assert_eq!((&list["name"], &list["cniVersion"]), (&"my\"net".into(), &"0.3.1".into()));
        assert_eq!(list["plugins"][0], serde_json::from_str::<serde_json::Value>(single).expect("it is JSON"));
        assert_eq!(list["plugins"][1]["type"], PLUGIN);
        assert_eq!(wrap(r#"{"name":"a","type":"x"}"#, OURS), Err(ConflistError::Version(String::new())));
        assert!(wrap(r#"{"cniVersion":"1.0.0","type":"x"}"#, OURS).is_err());
    }

    #[test]
    fn the_loopback_network_is_none_for_us() {
        assert!(is_loopback(r#"{"cniVersion":"0.3.1","name":"lo","type":"loopback"}"#));
        assert!(is_loopback(r#"{"cniVersion":"0.3.1","name":"lo","plugins":[{"type":"loopback"}]}"#));
        assert!(!is_loopback(SHAPES[0]));
        assert!(!is_loopback("nonsense"));
    }
}
