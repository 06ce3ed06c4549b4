//! What a runtime's CNI library keeps of every attachment: how pods are found that started before the plugin was there.
//!
//! libcni (`libcni/api.go`, `cachedInfo`) writes `results/<network>-<container>-<interface>` when `ADD` is through, with what
//! it told the plugins, the pod's annotations included, and removes it after `DEL`.

use crate::{
    cni::{
        configuration::POD_ANNOTATIONS,
        environment::{Arguments, is_container_id},
    },
    install::conflist,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// One attachment.
#[derive(Debug, PartialEq, Eq)]
pub struct Cached {
    /// Of the pod's sandbox.
    pub container_id: String,
    /// The interface.
    pub interface: String,
    /// The network.
    pub network: String,
    /// Where the network namespace was made.
    pub netns: PathBuf,
    /// Who the pod is.
    pub arguments: Arguments,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A file of the cache, in the version that was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    modified: (i64, i64),
    inode: u64,
}

/// Every file of the cache.
///
/// # Errors
/// When the folder cannot be read. That there is none is none: then no pod has been attached.
pub fn entries(cache: &Path) -> io::Result<Vec<Entry>> {
    let files = match fs::read_dir(cache.join("results")) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for file in files {
        let path = file?.path();
        // It may have gone since.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() && metadata.len() <= ENTRY_BYTES_MAX {
            entries.push(Entry { path, modified: (metadata.mtime(), metadata.mtime_nsec()), inode: metadata.ino() });
        }
    }
    entries.sort();
    Ok(entries)
}

/// How many attachments of the cache have our plugin in the configuration that the runtime keeps for their end.
///
/// # Errors
/// When the cache cannot be read.
pub fn with_our_plugin(cache: &Path) -> io::Result<usize> {
    #[derive(Deserialize)]
    struct Wire {
        // Go writes bytes in base64.
        config: String,
    }
    let names_it = |entry: &Entry| {
        let config = fs::read_to_string(&entry.path).ok().and_then(|text| serde_json::from_str(&text).ok());
        let list = config.and_then(|Wire { config }| STANDARD.decode(config).ok());
        list.is_some_and(|list| conflist::count(&String::from_utf8_lossy(&list)).is_ok_and(|(_, ours)| ours > 0))
    };
    Ok(entries(cache)?.iter().filter(|entry| names_it(entry)).count())
}

impl Cached {
    /// What a file of the cache says; none when it is not about an interface of a pod.
    ///
    /// # Errors
    /// When it is not what libcni writes. Perhaps it is being written.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire {
            #[serde(default)]
            kind: String,
            #[serde(default)]
            container_id: String,
            #[serde(default)]
            if_name: String,
            #[serde(default)]
            network_name: String,
            #[serde(default)]
            netns: PathBuf,
            #[serde(default)]
            cni_args: Option<Vec<(String, String)>>,
            #[serde(default)]
            capability_args: Option<BTreeMap<String, serde_json::Value>>,
        }
        let wire: Wire = serde_json::from_str(text).map_err(|error| error.to_string())?;
        // Older libraries kept the result alone, without a pod. The loopback interface is an attachment of its own.
        if wire.kind != KIND || wire.if_name == LOOPBACK || !is_container_id(&wire.container_id) {
            return Ok(None);
        }
        let annotations = wire.capability_args.unwrap_or_default().remove(POD_ANNOTATIONS).unwrap_or_default();
        let annotations: Option<BTreeMap<String, String>> =
            serde_json::from_value(annotations).map_err(|error| format!("{POD_ANNOTATIONS}: {error}"))?;
        Ok(Some(Self {
            container_id: wire.container_id,
            interface: wire.if_name,
            network: wire.network_name,
            netns: wire.netns,
            arguments: wire.cni_args.unwrap_or_default().into_iter().collect(),
            annotations: annotations.unwrap_or_default(),
        }))
    }
}

/// The kind of files that this understands.
const KIND: &str = "cniCacheV1";
const LOOPBACK: &str = "lo";
/// Annotations have at most 256 KiB a pod, and are in there once more as part of the configuration.
const ENTRY_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_read() {
        let text = r#"{"kind":"cniCacheV1","containerId":"abc","config":"e30=","ifName":"eth0","networkName":"net",
            "netns":"/run/netns/x","cniArgs":[["K8S_POD_NAME","web"],["K8S_POD_UID","u1"]],
            "capabilityArgs":{"portMappings":[],"io.kubernetes.cri.pod-annotations":{"heddle.dev/capture":"ebpf"}},
            "result":{"cniVersion":"1.0.0"}}"#;
        let cached = Cached::parse(text).expect("it is right").expect("it is a pod's");
        assert_eq!((cached.container_id.as_str(), cached.network.as_str()), ("abc", "net"));
        assert_eq!((cached.arguments.pod_name(), cached.arguments.pod_uid()), ("web", Some("u1")));
        assert_eq!(cached.annotations, [("heddle.dev/capture".to_owned(), "ebpf".to_owned())].into());
    }

    #[test]
    fn what_is_no_pods_is_passed_over_and_what_is_broken_is_told() {
        let none = |text: &str| assert_eq!(Cached::parse(text), Ok(None), "{text}");
        none(r#"{"cniVersion":"0.4.0","ips":[]}"#);
        none(r#"{"kind":"cniCacheV1","containerId":"abc","ifName":"lo"}"#);
        none(r#"{"kind":"cniCacheV1","containerId":"../x","ifName":"eth0"}"#);
        let bare = r#"{"kind":"cniCacheV1","containerId":"abc","ifName":"eth0","cniArgs":null,"capabilityArgs":
            {"io.kubernetes.cri.pod-annotations":null}}"#;
        assert!(Cached::parse(bare).expect("it is right").expect("it is a pod's").annotations.is_empty());
        for broken in ["", "{", "7", r#"{"kind":1}"#] {
            assert!(Cached::parse(broken).is_err(), "{broken}");
        }
    }
}
