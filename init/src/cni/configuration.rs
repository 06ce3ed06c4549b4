//! The plugin's configuration, as a runtime hands it over on standard input (CNI specification 1.1.0, section 1).

use super::{
    error::{CniError, Code},
    settings::{Select, Settings},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// What one call of the plugin was given.
#[derive(Debug)]
pub struct Configuration {
    /// The version that the runtime speaks; one of [`SUPPORTED`].
    pub cni_version: Version,
    /// The name of the network.
    pub network: String,
    /// What the plugin before this one made, as it wrote it.
    pub previous_result: Option<String>,
    /// The pod's annotations; none when the runtime did not hand them over.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Which attachments still exist, by container and interface; none when the runtime did not say.
    pub valid_attachments: Option<BTreeSet<(String, String)>>,
    /// What we were told ourselves.
    pub own: Own,
}

/// Our own keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Own {
    /// How pods are captured.
    pub capture: Settings,
    /// Which.
    pub select: Select,
    /// Where captured pods are recorded.
    pub state_directory: PathBuf,
    /// Where the BPF filesystem is mounted.
    pub bpffs: PathBuf,
}

/// A version of the specification that this plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    /// The one that errors are told in when the runtime's is not known.
    pub const CURRENT: Self = Self(SUPPORTED.len() - 1);
    /// The first that has `CHECK`.
    pub const WITH_CHECK: Self = Self(2);
    /// The first that has `GC` and `STATUS`.
    pub const WITH_GC: Self = Self(4);

    /// As the specification writes it.
    pub fn text(self) -> &'static str {
        SUPPORTED[self.0]
    }

    /// The version that is written so, if it is spoken.
    pub fn parse(text: &str) -> Option<Self> {
        SUPPORTED.iter().position(|known| *known == text).map(Self)
    }
}

impl Configuration {
    /// Reads what came on standard input.
    ///
    /// # Errors
    /// What is not JSON, of another version, unknown or wrong, by key.
    pub fn parse(input: &[u8]) -> Result<Self, CniError> {
        let not_json = |error: String| CniError::new(Code::Decoding, "the configuration cannot be decoded", error);
        let input = std::str::from_utf8(input).map_err(|error| not_json(error.to_string()))?;
        let fields: Fields<'_> = serde_json::from_str(input).map_err(|error| not_json(error.to_string()))?;
        let cni_version = version(&fields)?;
        for (key, value) in &fields {
            if !KNOWN.contains(&key.as_str()) && !key.starts_with(RESERVED) {
                return Err(CniError::new(
                    Code::UnsupportedField,
                    "unsupported field in the configuration",
                    format!("{key}: {value} is not known; our keys are capture, select, stateDirectory and bpffs"),
                ));
            }
        }
        let network: String = field(&fields, "name")?
            .filter(|name: &String| !name.is_empty())
            .ok_or_else(|| invalid("name is missing: the network's, which the runtime sets".to_owned()))?;
        let runtime: Option<BTreeMap<String, Box<RawValue>>> = field(&fields, "runtimeConfig")?;
        let annotations = runtime.as_ref().and_then(|runtime| runtime.get(POD_ANNOTATIONS)).map(|text| {
            let annotations: Option<BTreeMap<String, String>> =
                typed(&format!("runtimeConfig.{POD_ANNOTATIONS}"), text)?;
            Ok(annotations.unwrap_or_default())
        });
        Ok(Self {
            cni_version,
            network,
            previous_result: fields
                .get("prevResult")
                .map(|raw| raw.get())
                .filter(|raw| *raw != "null")
                .map(str::to_owned),
            annotations: annotations.transpose()?,
            valid_attachments: valid_attachments(&fields)?,
            own: Own::read(&fields)?,
        })
    }
}

impl Own {
    fn read(fields: &Fields<'_>) -> Result<Self, CniError> {
        let folder = |key: &str, default: &str| {
            let path: PathBuf = field(fields, key)?.unwrap_or_else(|| default.into());
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(invalid(format!("{key}: `{}` is not an absolute path", path.display())))
            }
        };
        // serde would take a list for the values in their order.
        if let Some(list) = fields.get("capture").filter(|raw| raw.get().starts_with('[')) {
            return Err(invalid(format!("capture: `{list}` is a list; write an object of options")));
        }
        Ok(Self {
            capture: field(fields, "capture")?.unwrap_or_default(),
            select: field(fields, "select")?.unwrap_or_default(),
            state_directory: folder("stateDirectory", STATE_DIRECTORY)?,
            bpffs: folder("bpffs", BPFFS)?,
        })
    }
}

/// What the runtime says to `VERSION`, which comes with less than a configuration, or with nothing.
pub fn version_asked(input: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    serde_json::from_slice(input).map_or_else(|_| Version::CURRENT.text().to_owned(), |asked: Asked| asked.cni_version)
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

fn version(fields: &Fields<'_>) -> Result<Version, CniError> {
    let text: String = field(fields, "cniVersion")?.unwrap_or_default();
    Version::parse(&text).ok_or_else(|| {
        let spoken = SUPPORTED.join(", ");
        let details = format!("cniVersion is `{text}`, and this plugin speaks {spoken}");
        CniError::new(Code::IncompatibleVersion, "incompatible CNI version", details)
    })
}

fn valid_attachments(fields: &Fields<'_>) -> Result<Option<BTreeSet<(String, String)>>, CniError> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    // The older name is that of libcni before the specification was corrected.
    let Some(key) =
        ["cni.dev/valid-attachments", "cni.dev/attachments"].into_iter().find(|key| fields.contains_key(*key))
    else {
        return Ok(None);
    };
    // A list without items is `null` in Go.
    let listed: Vec<Wire> = field(fields, key)?.unwrap_or_default();
    Ok(Some(listed.into_iter().map(|one| (one.container_id, one.ifname)).collect()))
}

/// The value of a key; none where it is absent or null.
fn field<T: DeserializeOwned>(fields: &Fields<'_>, key: &str) -> Result<Option<T>, CniError> {
    fields.get(key).map_or(Ok(None), |raw| typed(key, raw))
}

fn typed<T: DeserializeOwned>(key: &str, raw: &RawValue) -> Result<T, CniError> {
    serde_json::from_str(raw.get()).map_err(|error| invalid(format!("{key}: {error}")))
}

fn invalid(details: String) -> CniError {
    CniError::new(Code::InvalidConfiguration, "invalid configuration", details)
}

/// Under which a runtime hands over the pod's annotations, where the configuration says that it wants them: containerd
/// and CRI-O do.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Where captured pods are recorded when nothing else is said; gone after a reboot, as the pods are.
pub const STATE_DIRECTORY: &str = "/run/heddle/pods";
/// Where the BPF filesystem is when nothing else is said.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Every version that this plugin speaks, oldest first; chaining came with 0.3.0.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// "All other fields not prefixed with `cni.dev/`": those are the specification's own, also those that come later.
const RESERVED: &str = "cni.dev/";
/// Standard keys first, as libcni's `PluginConf` has them, then ours.
const KNOWN: [&str; 14] = [
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "args",
    "ipam",
    "ipMasq",
    "dns",
    "capture",
    "select",
    "stateDirectory",
    "bpffs",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(input: &str, code: Code, part: &str) {
        let error = Configuration::parse(input.as_bytes()).expect_err(input);
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.details.contains(part), "{part:?} is not in {error:?}");
    }

    #[test]
    fn a_configuration_is_read() {
        let text = r#"{"cniVersion":"1.0.0","name":"net","type":"heddle-init","dns":{},"capabilities":{"x":true},
            "capture":{"mode":"ebpf","dns":true},"select":"all","stateDirectory":"/s","cni.dev/later":1,
            "runtimeConfig":{"other":[1],"io.kubernetes.cri.pod-annotations":{"a":"b"}},
            "prevResult":{ "big": 18446744073709551616 }}"#;
        let configuration = Configuration::parse(text.as_bytes()).expect("it is right");
        assert_eq!(configuration.cni_version.text(), "1.0.0");
        assert_eq!(configuration.previous_result.as_deref(), Some(r#"{ "big": 18446744073709551616 }"#));
        assert_eq!(configuration.annotations, Some([("a".to_owned(), "b".to_owned())].into()));
        assert_eq!(configuration.valid_attachments, None);
        let own = configuration.own;
        assert_eq!((own.select, own.capture.mode.as_str(), own.capture.dns), (Select::All, "ebpf", true));
        assert_eq!((own.state_directory, own.bpffs), ("/s".into(), BPFFS.into()));
    }

    #[test]
    fn annotations_that_are_null_are_none_and_those_that_are_absent_are_unknown() {
        let annotations = |runtime: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"n"{runtime}}}"#);
            Configuration::parse(text.as_bytes()).expect("it is right").annotations
        };
        assert_eq!(annotations(""), None);
        assert_eq!(annotations(r#","runtimeConfig":{}"#), None);
        assert_eq!(annotations(r#","runtimeConfig":null"#), None);
        assert_eq!(
            annotations(r#","runtimeConfig":{"io.kubernetes.cri.pod-annotations":null}"#),
            Some(BTreeMap::new())
        );
    }

    #[test]
    fn attachments_have_an_old_and_a_new_name_and_may_be_null() {
        let listed = |more: &str| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"n",{more}}}"#);
            Configuration::parse(text.as_bytes()).expect("it is right").valid_attachments
        };
        let one = Some([("a".to_owned(), "eth0".to_owned())].into());
        assert_eq!(listed(r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#), one);
        assert_eq!(listed(r#""cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]"#), one);
        assert_eq!(listed(r#""cni.dev/valid-attachments":null"#), Some(BTreeSet::new()));
    }

    #[test]
    fn hostile_input_is_told_with_its_place() {
        fails("", Code::Decoding, "EOF");
        fails("[]", Code::Decoding, "map");
        fails("{\"a\":", Code::Decoding, "EOF");
        fails(&format!("{{\"name\":{}", "[".repeat(100_000)), Code::Decoding, "line 1");
        fails("{}", Code::IncompatibleVersion, "cniVersion is ``, and this plugin speaks 0.3.0, 0.3.1");
        fails(r#"{"cniVersion":"0.2.0"}"#, Code::IncompatibleVersion, "`0.2.0`");
        fails(r#"{"cniVersion":7}"#, Code::InvalidConfiguration, "cniVersion: invalid type: integer `7`");
        let with = |more: &str| format!(r#"{{"cniVersion":"1.1.0","name":"n",{more}}}"#);
        fails(r#"{"cniVersion":"1.1.0"}"#, Code::InvalidConfiguration, "name is missing");
        fails(&with(r#""mode":"ebpf""#), Code::UnsupportedField, r#"mode: "ebpf" is not known"#);
        fails(&with(r#""capture":{"mod":1}"#), Code::InvalidConfiguration, "capture: unknown field `mod`");
        fails(&with(r#""capture":[]"#), Code::InvalidConfiguration, "capture: ");
        fails(&with(r#""select":"some""#), Code::InvalidConfiguration, "select: unknown variant `some`");
        fails(&with(r#""stateDirectory":"pods""#), Code::InvalidConfiguration, "`pods` is not an absolute path");
        fails(
            &with(r#""runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}"#),
            Code::InvalidConfiguration,
            "runtimeConfig.io.kubernetes.cri.pod-annotations: ",
        );
        fails(&with(r#""cni.dev/valid-attachments":[{}]"#), Code::InvalidConfiguration, "missing field `containerID`");
        assert_eq!(Configuration::parse(&[0xff, 0xfe]).expect_err("it is not UTF-8").code, Code::Decoding);
    }

    #[test]
    fn versions_are_in_order() {
        assert_eq!(Version::WITH_CHECK.text(), "0.4.0");
        assert_eq!(Version::WITH_GC.text(), "1.1.0");
        assert_eq!(Version::CURRENT.text(), "1.1.0");
    }
}
