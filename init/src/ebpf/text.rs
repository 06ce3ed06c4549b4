//! The programs and their maps as text, for `show`. Each line is a comment in the language of nft(8).

use super::{Network, Programs};
use std::fmt::{self, Display, Formatter};

impl Display for Programs {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.place.cgroup {
            Ok(cgroup) => writeln!(f, "#   cgroup {}", cgroup.path.display())?,
            Err(why) => writeln!(f, "#   cgroup unknown: {why}")?,
        }
        match &self.place.pins {
            Ok(pins) => writeln!(f, "#   pins {}", pins.display())?,
            Err(why) => writeln!(f, "#   pins unknown: {why}")?,
        }
        for hook in &self.hooks {
            writeln!(f, "#   program heddle_{}", hook.attach_type_and_name().1)?;
        }
        writeln!(f, "#   map settings: flags {:#x}", self.flags)?;
        for (network, meaning) in &self.out_networks {
            writeln!(f, "#   map out_networks: {network} {}", meaning_name(*meaning))?;
        }
        for network in self.in_networks.keys() {
            writeln!(f, "#   map in_networks: {network}")?;
        }
        for (name, ports) in [("out_ports", &self.out_ports), ("in_ports", &self.in_ports)] {
            for port in ports {
                writeln!(f, "#   map {name}: {port}")?;
            }
        }
        for index in &self.in_interfaces {
            writeln!(f, "#   map in_interfaces: {index}")?;
        }
        Ok(())
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.address.to_ipv4_mapped() {
            Some(v4) if self.prefix_bits >= super::MAPPED_BITS => {
                write!(f, "{v4}/{}", self.prefix_bits - super::MAPPED_BITS)
            }
            _ => write!(f, "{}/{}", self.address, self.prefix_bits),
        }
    }
}

fn meaning_name(meaning: u32) -> &'static str {
    match meaning {
        super::NETWORK_LOCAL => "direct",
        super::NETWORK_ALWAYS => "captured whatever is excluded",
        _ => "excluded",
    }
}
