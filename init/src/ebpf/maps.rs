//! What the maps hold that `heddle-init` fills: written before a program is attached, and read back.

use super::{Network, Programs, attach::EbpfError};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use heddle_init_abi::ebpf::VERSION;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::Ipv6Addr,
    path::Path,
};

/// Fills the maps of a loaded object with what is planned. What was in there and is not planned goes last, so that an exclusion
/// that stays is never missing.
///
/// # Errors
/// What the kernel says.
pub(super) fn fill(ebpf: &mut Ebpf, planned: &Programs) -> Result<(), EbpfError> {
    for (name, networks) in [("out_networks", &planned.out_networks), ("in_networks", &planned.in_networks)] {
        let mut map = LpmTrie::try_from(find(ebpf, name)?).map_err(|source| broken(name, source))?;
        fill_networks(&mut map, networks).map_err(|source| broken(name, source))?;
    }
    for (name, planned) in [("out_ports", &planned.out_ports), ("in_ports", &planned.in_ports)] {
        let mut map = Array::<_, Ports>::try_from(find(ebpf, name)?).map_err(|source| broken(name, source))?;
        map.set(0, ports(planned), 0).map_err(|source| broken(name, source))?;
    }
    let mut map = HashMap::try_from(find(ebpf, INTERFACES)?).map_err(|source| broken(INTERFACES, source))?;
    fill_numbers(&mut map, &planned.in_interfaces).map_err(|source| broken(INTERFACES, source))?;
    let mut settings =
        Array::<_, Settings>::try_from(find(ebpf, SETTINGS)?).map_err(|source| broken(SETTINGS, source))?;
    settings.set(0, words(planned), 0).map_err(|source| broken(SETTINGS, source))
}

/// How the pinned maps differ from the plan.
pub(super) fn differences(pins: &Path, planned: &Programs) -> Vec<String> {
    let mut differences = Vec::new();
    match read::<Array<MapData, Settings>>(pins, SETTINGS).and_then(|map| map.get(&0, 0)) {
        Ok(found) if found == words(planned) => {}
        Ok(_) => differences.push(format!("map {SETTINGS} has not the planned flags and addresses")),
        Err(error) => differences.push(format!("map {SETTINGS} cannot be read: {error}")),
    }
    for (name, networks) in [("out_networks", &planned.out_networks), ("in_networks", &planned.in_networks)] {
        let found = read::<LpmTrie<MapData, [u8; 16], u32>>(pins, name).and_then(|map| {
            map.iter()
                .map(|entry| entry.map(|(key, value)| (network(&key), value)))
                .collect::<Result<BTreeMap<_, _>, _>>()
        });
        differences.extend(difference(name, found, networks));
    }
    for (name, planned) in [("out_ports", &planned.out_ports), ("in_ports", &planned.in_ports)] {
        let found = read::<Array<MapData, Ports>>(pins, name).and_then(|map| map.get(&0, 0));
        differences.extend(difference(name, found, &ports(planned)));
    }
    let found = read::<HashMap<MapData, u32, u32>>(pins, INTERFACES)
        .and_then(|map| map.keys().collect::<Result<BTreeSet<_>, _>>());
    differences.extend(difference(INTERFACES, found, &planned.in_interfaces));
    differences
}

/// The version of the pinned maps; none when there are none.
pub(super) fn version(pins: &Path) -> Option<u32> {
    read::<Array<MapData, Settings>>(pins, SETTINGS).and_then(|map| map.get(&0, 0)).ok().map(|words| words[0])
}

/// `struct settings` of bpf/heddle.bpf.h.
type Settings = [u32; 10];

fn words(planned: &Programs) -> Settings {
    let mut words = [VERSION, planned.flags, 0, 0, 0, 0, 0, 0, 0, 0];
    let own = planned.own.iter().flat_map(|address| address.octets().chunks(4).map(word).collect::<Vec<_>>());
    words.iter_mut().skip(2).zip(own).for_each(|(to, from)| *to = from);
    words
}

fn word(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

fn fill_networks(
    map: &mut LpmTrie<&mut MapData, [u8; 16], u32>,
    planned: &BTreeMap<Network, u32>,
) -> Result<(), MapError> {
    for (network, meaning) in planned {
        map.insert(&Key::new(network.prefix_bits, network.address.octets()), meaning, 0)?;
    }
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    for key in keys.iter().filter(|key| !planned.contains_key(&network(key))) {
        map.remove(key)?;
    }
    Ok(())
}

/// `struct ports` of bpf/heddle.bpf.h: one bit a port.
type Ports = [u64; 1024];

fn ports(planned: &BTreeSet<u16>) -> Ports {
    let mut words = [0; 1024];
    for port in planned {
        words[usize::from(port / 64)] |= 1 << (port % 64);
    }
    words
}

fn fill_numbers(map: &mut HashMap<&mut MapData, u32, u32>, planned: &BTreeSet<u32>) -> Result<(), MapError> {
    for key in planned {
        map.insert(key, 1, 0)?;
    }
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    for key in keys.iter().filter(|key| !planned.contains(key)) {
        map.remove(key)?;
    }
    Ok(())
}

fn network(key: &Key<[u8; 16]>) -> Network {
    Network { address: Ipv6Addr::from(key.data()), prefix_bits: key.prefix_len() }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map, EbpfError> {
    ebpf.map_mut(name).ok_or_else(|| EbpfError::Object(name.to_owned()))
}

fn read<T: TryFrom<Map, Error = MapError>>(pins: &Path, name: &str) -> Result<T, MapError> {
    T::try_from(Map::from_map_data(MapData::from_pin(pins.join(name))?)?)
}

fn difference<T: PartialEq>(name: &str, found: Result<T, impl Display>, planned: &T) -> Option<String> {
    match found {
        Ok(found) if found == *planned => None,
        Ok(_) => Some(format!("map {name} has not the planned entries")),
        Err(error) => Some(format!("map {name} cannot be read: {error}")),
    }
}

fn broken(name: &str, source: MapError) -> EbpfError {
    EbpfError::Map { name: name.to_owned(), source }
}

const SETTINGS: &str = "settings";
const INTERFACES: &str = "in_interfaces";
