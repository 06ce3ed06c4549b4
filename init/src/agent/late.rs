//! Pods that started before the plugin was in place, and ask for capture.

use super::round::Round;
use crate::{
    cni::{
        pod::{self, PodError},
        record::{Pod, Record, SCHEMA},
        settings::{Select, Settings},
    },
    cni_cache::{self, Cached},
    netns::NetnsError,
    report::chain,
};
use std::{fs, io, path::Path};

/// Captures every pod of the cache that asks for it and has no record.
pub(super) fn capture(round: &mut Round, recorded: &[String]) {
    let entries = match cni_cache::entries(&round.cache) {
        Ok(entries) => entries,
        Err(error) => {
            let fault = format!("cannot read the CNI results in {}: {error}", round.cache.display());
            return round.failed("cache", &fault);
        }
    };
    round.succeeded("cache");
    round.settled = entries.iter().filter(|entry| round.settled.contains(entry)).cloned().collect();
    let names: Vec<_> = entries.iter().map(|entry| entry.path.display().to_string()).collect();
    round.seen.retain(|container| names.iter().any(|name| name.contains(container)) || recorded.contains(container));
    for entry in entries.into_iter().filter(|entry| !round.settled.contains(entry)).collect::<Vec<_>>() {
        let name = entry.path.display().to_string();
        // It may have gone since.
        let Ok(text) = fs::read_to_string(&entry.path) else { continue };
        match Cached::parse(&text) {
            Ok(Some(cached)) => match capture_one(round, cached) {
                Ok(()) => {
                    round.settled.insert(entry);
                    round.succeeded(&name);
                }
                Err(fault) => round.failed(&name, &format!("{fault} (found in {name})")),
            },
            Ok(None) => {
                round.settled.insert(entry);
            }
            Err(why) => round.failed(&name, &format!("{name} is not a CNI result: {why}")),
        }
    }
}

/// Whether the entry needs no further look.
fn capture_one(round: &mut Round, cached: Cached) -> Result<(), String> {
    if round.seen.contains(&cached.container_id) {
        return Ok(());
    }
    let pod = Pod {
        namespace: cached.arguments.pod_namespace().to_owned(),
        name: cached.arguments.pod_name().to_owned(),
        uid: cached.arguments.pod_uid().map(str::to_owned),
    };
    let what = format!("pod {}/{}", pod.namespace, pod.name);
    let Some(capture) = wanted(&round.settings, &cached).map_err(|error| format!("{what}: {error}"))? else {
        return Ok(());
    };
    let netns_inode = match pod::open_netns(&cached.netns) {
        Ok(netns) => netns.inode(),
        // It is ending, or ended without telling; unless this container does not see the folder.
        Err(PodError::Netns(NetnsError::Open { source, .. }))
            if source.kind() == io::ErrorKind::NotFound && cached.netns.parent().is_some_and(Path::is_dir) =>
        {
            return Ok(());
        }
        Err(error) => return Err(format!("{what}: {}", chain(&error))),
    };
    let mut record = Record {
        schema: SCHEMA,
        container_id: cached.container_id,
        interfaces: [cached.interface].into(),
        network: cached.network,
        netns: cached.netns,
        netns_inode,
        pod,
        capture,
        bpffs: round.bpffs.clone(),
        cgroup: None,
    };
    pod::capture(&record).map_err(|error| format!("{record}: cannot be captured late: {}", chain(&error)))?;
    record.cgroup = pod::cgroup_of(&record);
    round
        .records
        .write(&record)
        .map_err(|error| format!("{record}: captured late, but not recorded: {}", chain(&error)))?;
    round.seen.insert(record.container_id.clone());
    round.counters.captured_late += 1;
    println!("heddle-init: {record}: captured late, it started before the plugin was in place; {}", round.counters);
    Ok(())
}

/// Only a pod that says so itself: one that runs without a proxy would lose its network.
fn wanted(settings: &Settings, cached: &Cached) -> Result<Option<Settings>, String> {
    settings.for_pod(Select::Annotated, &cached.annotations).map_err(|error| error.to_string())
}
