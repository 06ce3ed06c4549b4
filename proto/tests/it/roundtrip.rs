//! What goes out comes back the same, through bytes; and no bytes make decoding panic.

use crate::arbitrary;
use heddle_proto::{
    convert::{
        Address, decode_address, decode_policy, decode_service, decode_workload, encode_address, encode_policy,
        encode_service, encode_workload, pack, stand_in, unpack,
    },
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE, parse_address_name, service_aliases, workload_aliases},
    wire::{
        heddle::v1::WorkloadExtension,
        istio::{
            security::Authorization,
            workload::{self, Extension},
        },
    },
};
use proptest::prelude::*;
use prost::Message;

proptest! {
    #[test]
    fn workloads_come_back_the_same(workload in arbitrary::workload()) {
        let address = Address::Workload(workload.clone().into());
        let any = pack(ADDRESS_TYPE, &encode_address(&address));
        let message: workload::Address = unpack(&any, ADDRESS_TYPE, "x", "resource").unwrap();
        prop_assert_eq!(decode_address("x", &message).unwrap(), address);
        for alias in workload_aliases(&workload) {
            prop_assume!(!workload.network.contains('/'));
            let (network, ip) = parse_address_name(&alias).unwrap();
            prop_assert!(workload.addresses.contains(&ip) && network == &*workload.network);
        }
    }

    #[test]
    fn services_come_back_the_same(service in arbitrary::service()) {
        let message = workload::Service::decode(encode_service(&service).encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(decode_service(&message).unwrap(), service.clone());
        prop_assert_eq!(service_aliases(&service).len(), service.addresses.len());
    }

    #[test]
    fn policies_come_back_the_same(policy in arbitrary::policy()) {
        let any = pack(AUTHORIZATION_TYPE, &encode_policy(&policy));
        let message: Authorization = unpack(&any, AUTHORIZATION_TYPE, "x", "resource").unwrap();
        prop_assert_eq!(decode_policy(&message).unwrap(), policy);
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_damage_makes_decoding_panic(
        workload in arbitrary::workload(),
        policy in arbitrary::policy(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for mut bytes in [encode_workload(&workload).encode_to_vec(), encode_policy(&policy).encode_to_vec()] {
            for (at, byte) in &damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            decode_all(&bytes);
        }
    }

    #[test]
    fn unknown_enum_values_are_taken(tunnel in any::<i32>(), status in any::<i32>(), mode in any::<i32>(), egress in any::<i32>()) {
        let extension = pack(heddle_proto::names::WORKLOAD_EXTENSION_TYPE, &WorkloadExtension { egress });
        let message = workload::Workload {
            uid: "u".to_owned(),
            namespace: "n".to_owned(),
            tunnel_protocol: tunnel,
            status,
            network_mode: mode,
            extensions: vec![Extension { name: "x".to_owned(), config: Some(extension) }],
            ..workload::Workload::default()
        };
        prop_assert!(decode_workload(&message).is_ok());
        let service = workload::Service {
            namespace: "n".to_owned(),
            hostname: "h".to_owned(),
            ports: vec![workload::Port { service_port: 80, target_port: 0, app_protocol: tunnel }],
            load_balancing: Some(workload::LoadBalancing { routing_preference: vec![mode], mode, health_policy: status }),
            ..workload::Service::default()
        };
        prop_assert!(decode_service(&service).is_ok());
    }
}

fn decode_all(bytes: &[u8]) {
    if let Ok(message) = workload::Address::decode(bytes) {
        let _ = decode_address("x", &message);
    }
    if let Ok(message) = workload::Workload::decode(bytes) {
        let _ = decode_workload(&message);
    }
    if let Ok(message) = workload::Service::decode(bytes) {
        let _ = decode_service(&message);
    }
    if let Ok(message) = Authorization::decode(bytes) {
        let _ = (decode_policy(&message), stand_in(&message));
    }
}
