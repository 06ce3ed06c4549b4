//! What each command of the plugin does.

use super::{
    configuration::{Configuration, POD_ANNOTATIONS},
    environment::Attachment,
    error::{CniError, Code},
    node,
    pod::{self, PodError},
    record::{Held, Pod, Record, RecordError, Records, SCHEMA},
    settings::Settings,
};
use crate::{capture::CaptureError, config::Config, report::chain};
use std::collections::BTreeSet;

/// `ADD`: captures the pod where it asks for it, and gives the result of the plugins before this one.
///
/// # Errors
/// When the pod cannot be captured as it asks; then nothing of ours is in it.
pub fn add(configuration: &Configuration, attachment: &Attachment) -> Result<String, CniError> {
    let previous = configuration.previous_result.clone().ok_or_else(|| {
        let why =
            "prevResult is missing: heddle-init is a chained plugin, put it behind the one that makes the interface";
        CniError::new(Code::InvalidConfiguration, "invalid configuration", why)
    })?;
    let Some(settings) = settings(configuration, attachment)? else { return Ok(previous) };
    let mut record = record(configuration, attachment, settings)?;
    let records = Records::new(&configuration.own.state_directory);
    // A second interface of the same pod: it is captured as a whole already.
    let held = records.hold(&record.container_id).map_err(|error| io(&error))?;
    if let Some(held) = held.as_ref().filter(|held| held.record.netns_inode == record.netns_inode) {
        record.interfaces.extend(held.record.interfaces.iter().cloned());
    }
    pod::capture(&record).map_err(|error| failed(&record, "cannot capture the pod", &error))?;
    record.cgroup = pod::cgroup_of(&record);
    records.write(&record).map_err(|error| {
        // What is not recorded would be neither repaired nor removed.
        let left = pod::release(&records, &record).err().map(|left| format!("; and not undone: {}", chain(&left)));
        CniError { details: format!("{}{}", chain(&error), left.unwrap_or_default()), ..io(&error) }
    })?;
    Ok(previous)
}

/// `CHECK`: says whether the pod is captured as it was by `ADD`.
///
/// # Errors
/// Everything that differs.
pub fn check(configuration: &Configuration, attachment: &Attachment) -> Result<(), CniError> {
    let records = Records::new(&configuration.own.state_directory);
    let Some(Held { record, .. }) = records.hold(&attachment.container_id).map_err(|error| io(&error))? else {
        return match settings(configuration, attachment)? {
            None => Ok(()),
            Some(_) => Err(CniError::new(
                Code::NotCaptured,
                "the pod is not captured",
                format!(
                    "it asks for capture, and {} has no record of it; restart the pod, or run heddle-init agent on this node",
                    configuration.own.state_directory.display()
                ),
            )),
        };
    };
    let differences = pod::differences(&record).map_err(|error| failed(&record, "cannot check the pod", &error))?;
    if differences.is_empty() {
        Ok(())
    } else {
        let details = format!("{record}: {}", differences.join("; "));
        Err(CniError::new(Code::NotCaptured, "capture is not in force as planned", details))
    }
}

/// `DEL`: leaves nothing of the attachment. May be repeated, and gets as far as it can.
///
/// # Errors
/// What could not be removed. That it is not there is none.
pub fn del(configuration: &Configuration, attachment: &Attachment) -> Result<(), CniError> {
    let records = Records::new(&configuration.own.state_directory);
    records.remove_unfinished(&attachment.container_id);
    match records.hold(&attachment.container_id).map_err(|error| io(&error))? {
        Some(held) => detach(&records, held, |interface| *interface != attachment.interface),
        None => del_unrecorded(&records, configuration, attachment),
    }
}

/// `GC`: leaves nothing of attachments to this network that the runtime does not know any more.
///
/// # Errors
/// Everything that could not be removed; the rest was.
pub fn gc(configuration: &Configuration) -> Result<(), CniError> {
    // Without the list nothing is known to be stale; libcni has called DEL for what it knows itself.
    let Some(valid) = &configuration.valid_attachments else { return Ok(()) };
    let records = Records::new(&configuration.own.state_directory);
    let mut left = Vec::new();
    for container in records.containers().map_err(|error| io(&error))? {
        let collected = match records.hold(&container) {
            Ok(Some(held)) if held.record.network == configuration.network => {
                detach(&records, held, |interface| valid.contains(&(container.clone(), interface.clone())))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(io(&error)),
        };
        left.extend(collected.err().map(|error| error.details));
    }
    if left.is_empty() {
        Ok(())
    } else {
        Err(CniError::new(Code::Capture, "not everything could be removed", left.join("; ")))
    }
}

/// `STATUS`: says whether this node has what the configured mode needs.
///
/// # Errors
/// What it lacks.
pub fn status(configuration: &Configuration) -> Result<(), CniError> {
    node::can_capture(&configuration.own)
        .map_err(|error| CniError::new(Code::NotAvailable, "this node cannot capture pods", chain(&error)))
}

/// How this pod is captured; none when it is not.
fn settings(configuration: &Configuration, attachment: &Attachment) -> Result<Option<Settings>, CniError> {
    let own = &configuration.own;
    let arguments = &attachment.arguments;
    let annotations = match &configuration.annotations {
        Some(annotations) => annotations,
        // Not from Kubernetes: there are none.
        None if arguments.pod_name().is_empty() => &Default::default(),
        None => {
            let details = format!(
                "the runtime handed over no pod annotations, so whether this pod asks for capture is unknown: the configuration \
                 of heddle-init needs \"capabilities\": {{\"{POD_ANNOTATIONS}\": true}} (heddle-init install writes it), and the \
                 runtime must be containerd from 1.5 or CRI-O from 1.28"
            );
            return Err(CniError::new(Code::InvalidConfiguration, "the pod's annotations are unknown", details));
        }
    };
    own.capture.for_pod(own.select, annotations).map_err(|error| {
        let (namespace, name) = (arguments.pod_namespace(), arguments.pod_name());
        let details = format!("pod {namespace}/{name}: {error}");
        CniError::new(Code::InvalidConfiguration, "invalid annotation", details)
    })
}

fn record(configuration: &Configuration, attachment: &Attachment, capture: Settings) -> Result<Record, CniError> {
    let netns = attachment.netns.clone().unwrap_or_default();
    let netns_inode = pod::open_netns(&netns)
        .map_err(|error| CniError::new(Code::InvalidNetns, "invalid network namespace", chain(&error)))?
        .inode();
    let arguments = &attachment.arguments;
    let uid = arguments.pod_uid().map(str::to_owned);
    Ok(Record {
        schema: SCHEMA,
        container_id: attachment.container_id.clone(),
        interfaces: BTreeSet::from([attachment.interface.clone()]),
        network: configuration.network.clone(),
        netns,
        netns_inode,
        pod: Pod { namespace: arguments.pod_namespace().to_owned(), name: arguments.pod_name().to_owned(), uid },
        capture,
        bpffs: configuration.own.bpffs.clone(),
        cgroup: None,
    })
}

/// Takes interfaces off a record, and releases the pod with the last of them.
fn detach(records: &Records, mut held: Held, stays: impl Fn(&String) -> bool) -> Result<(), CniError> {
    let before = held.record.interfaces.len();
    held.record.interfaces.retain(stays);
    if !held.record.interfaces.is_empty() {
        let changed = held.record.interfaces.len() != before;
        return if changed { records.write(&held.record).map_err(|error| io(&error)) } else { Ok(()) };
    }
    pod::release(records, &held.record).map_err(|error| failed(&held.record, "cannot release the pod", &error))?;
    held.remove().map_err(|error| io(&error))
}

/// Without a record: it was never captured, or somebody removed the record. Then the annotations tell what may be there.
fn del_unrecorded(records: &Records, configuration: &Configuration, attachment: &Attachment) -> Result<(), CniError> {
    if attachment.netns.is_none() {
        return Ok(());
    }
    // What is wrong here was wrong for ADD, too, so that nothing is there.
    let Ok(Some(settings)) = settings(configuration, attachment) else { return Ok(()) };
    let Ok(record) = record(configuration, attachment, settings) else { return Ok(()) };
    if Config::new(&record.args()).is_err() {
        return Ok(());
    }
    pod::release(records, &record).map_err(|error| failed(&record, "cannot release the pod", &error))
}

fn failed(record: &Record, message: &str, error: &PodError) -> CniError {
    let code = match error {
        PodError::Netns(_) | PodError::OwnNetns(_) | PodError::OtherNetns(_) => Code::InvalidNetns,
        PodError::Capture(CaptureError::Config(_)) => Code::InvalidConfiguration,
        PodError::Loopback(_) => Code::Io,
        PodError::NoUid => Code::InvalidEnvironment,
        PodError::Record(_) => Code::Io,
        PodError::Capture(_) | PodError::Unpin(_) => Code::Capture,
    };
    CniError::new(code, message, format!("{record}: {}", chain(error)))
}

fn io(error: &RecordError) -> CniError {
    CniError::new(Code::Io, "cannot use the record of the pod", chain(error))
}
