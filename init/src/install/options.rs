//! The options of `install`, and those that it shares with `agent`.

use super::conflist::PLUGIN;
use crate::{
    cni::{
        configuration::{POD_ANNOTATIONS, STATE_DIRECTORY},
        settings::{Select, Settings},
    },
    config::{Args, Config, ConfigError},
};
use clap::builder::BoolishValueParser;
use std::path::PathBuf;

/// The options of `install`.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    /// Where to put what.
    #[command(flatten)]
    pub places: Places,

    /// Stay, and put binary and plugin back whenever somebody removes or rewrites them; wait for a configuration where
    /// there is none yet. [default: off]
    #[arg(long, env = "HEDDLE_WATCH", value_parser = BoolishValueParser::new(), conflicts_with = "remove")]
    pub watch: bool,

    /// Take plugin and binary away instead. The binary stays while pods are on the node that were started with it, because the
    /// runtime calls it when they end; repeat it then. [default: off]
    #[arg(long, env = "HEDDLE_REMOVE", value_parser = BoolishValueParser::new())]
    pub remove: bool,

    /// What pods get.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Where a node has what concerns CNI.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    /// Folder of the node's CNI plugins, as this container sees it.
    #[arg(long, env = "HEDDLE_CNI_BIN", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin: PathBuf,

    /// Folder of the node's network configurations, as this container sees it.
    #[arg(long, env = "HEDDLE_CNI_CONF", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf: PathBuf,

    /// File in that folder which the runtime uses. [default: the first in alphabetical order, as containerd and CRI-O do]
    #[arg(long, env = "HEDDLE_CONFLIST", value_name = "NAME")]
    pub conflist: Option<String>,

    /// Folder of what the runtime's CNI library keeps of its pods. Pods that started before the plugin was in place are found
    /// there, and those whose end will call it.
    #[arg(long, env = "HEDDLE_CNI_CACHE", value_name = "DIR", default_value = "/var/lib/cni")]
    pub cni_cache: PathBuf,
}

/// How the pods of this node are captured, where their annotations do not say otherwise.
///
/// What differs from pod to pod by nature is refused by [`NodeArgs::settings`], so that it need not be shown.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("pod_uid", |option| option.hide(true)), mut_arg("cgroup", |option| option.hide(true)))]
pub struct NodeArgs {
    /// Which pods are captured.
    #[arg(long, env = "HEDDLE_SELECT", value_name = "WHICH", value_enum, default_value_t)]
    pub select: Select,

    /// Folder in which captured pods are recorded, by the same path on the node and in this container.
    #[arg(long, env = "HEDDLE_STATE_DIRECTORY", value_name = "DIR", default_value = STATE_DIRECTORY)]
    pub state_directory: PathBuf,

    /// How pods are captured.
    #[command(flatten)]
    pub capture: Args,
}

impl NodeArgs {
    /// How pods are captured, checked.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut mistakes = Config::new(&self.capture).err().map(|error| error.mistakes).unwrap_or_default();
        if !self.state_directory.is_absolute() {
            let path = self.state_directory.display();
            mistakes.push(format!("--state-directory: `{path}` is not an absolute path"));
        }
        for (option, is_given) in
            [("--pod-uid", self.capture.pod_uid.is_some()), ("--cgroup", self.capture.cgroup.is_some())]
        {
            if is_given {
                mistakes.push(format!("{option}: every pod has its own, which the runtime tells; leave it out"));
            }
        }
        if mistakes.is_empty() { Ok(Settings::of(&self.capture)) } else { Err(ConfigError { mistakes }) }
    }

    /// Our entry in the node's list.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn plugin(&self) -> Result<String, ConfigError> {
        let plugin = serde_json::json!({
            "type": PLUGIN,
            "capabilities": { POD_ANNOTATIONS: true },
            "capture": self.settings()?,
            "select": self.select,
            "stateDirectory": self.state_directory,
            "bpffs": self.capture.bpffs,
        });
        Ok(plugin.to_string())
    }
}
