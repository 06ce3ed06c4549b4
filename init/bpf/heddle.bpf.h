/* What the programs, `heddle-init` and the proxy share: the records of init/abi/src/ebpf.rs, whose sizes are asserted there
 * and here, and the declarations of the kernel's helpers that the programs use (linux/bpf.h lists them all).
 *
 * Addresses are always 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2), so that there is one
 * path for both families and for IPv4 on an IPv6 socket. Ports are in network order, too.
 */
#ifndef HEDDLE_BPF_H
#define HEDDLE_BPF_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>

#define OUTBOUND_PORT 15001
#define INBOUND_PORT 15006
#define HBONE_PORT 15008
#define DNS_PORT 15053
#define OWN_MARK 0x53a
#define LOOPBACK_INDEX 1
#define AF_INET4 2        /* AF_INET of socket.h, which cannot be included here */
#define SOCK_RAW_TYPE 3   /* SOCK_RAW of the same */

/* struct settings, flags */
#define CAPTURE 1      /* hand TCP to the proxy; without it the programs only guard what nftables captures */
#define CAPTURE_DNS 2  /* hand port 53 to the proxy's DNS listener */
#define GUARD 4        /* refuse what cannot be handed to the proxy, and UDP to port 443 */
#define GUARD_STRICT 8 /* refuse all UDP but DNS */

/* Values of `out_networks`. */
#define NETWORK_LOCAL 1    /* the pod itself, its link, multicast: direct */
#define NETWORK_EXCLUDED 2 /* excluded by option */
#define NETWORK_ALWAYS 3   /* captured whatever is excluded: the probe's addresses */

/* Levels and names of the proxy's private socket options. */
#define OPTION_LEVEL 0x4844
#define OPTION_CLAIM 1       /* set, struct claim's key */
#define OPTION_LISTENER 2    /* set, u32: the listener for inbound connections */
#define OPTION_PROBE 3       /* set, u32: treat this socket as an application's */
#define OPTION_CLIENT 4      /* set, struct endpoint: on whose behalf this socket will connect */
#define OPTION_DESTINATION 5 /* get, struct endpoint: where the client meant to go */
#define OPTION_COUNTERS 6    /* get, struct counters */
#define OPTION_REGISTERED 7  /* get, u32, of a listener: 1 when inbound connections come to it */
#define OPTION_FLOW 256      /* get, struct flow; plus its index */

enum reason {
	REASON_PROXY_PORT = 0,   /* the proxy's own port, dialled or bound by somebody else */
	REASON_DEVICE = 1,       /* the socket is bound to a device, so that it cannot be handed over */
	REASON_QUIC = 2,         /* UDP to port 443 */
	REASON_UDP = 3,          /* other UDP */
	REASON_PROTOCOL = 4,     /* a protocol that is neither TCP nor UDP nor ping */
	REASON_NOT_CAPTURED = 5, /* TCP that leaves the pod uncaptured */
	REASON_NO_LISTENER = 6,  /* inbound, and the proxy does not listen */
	REASON_CLAIM = 7,        /* a private option of somebody who is not the proxy */
	REASON_EXCLUDED = 8,     /* TCP or UDP to an excluded destination: passes */
	REASON_OPTION = 9,       /* a socket option that leads past the proxy */
	REASONS = 16,
};

struct endpoint {
	__u32 address[4];
	__be16 port;
	__u16 zero;
};

/* One connection, as the side sees it that asks. */
struct pair {
	struct endpoint local;
	struct endpoint remote;
};

struct settings {
	__u32 version;
	__u32 flags;
	__u32 own4[4]; /* the pod's addresses, zero where it has none */
	__u32 own6[4];
};

struct claim {
	__u64 cgroup;
	__u64 key[4];
};

struct counters {
	__u64 refused[REASONS];
	__u64 flows;
	__u64 overflow;
	__u64 mptcp; /* 1 when a process of the pod has made an MPTCP socket */
};

struct flow_key {
	__u32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 reason;
};

struct flow {
	struct flow_key key;
	__u32 refused;
	__u64 count;
};

/* The key of a longest-prefix map (linux/bpf.h, struct bpf_lpm_trie_key). */
struct network {
	__u32 prefix_bits;
	__u32 address[4];
};

/* A set of ports, one bit each. */
struct ports {
	__u64 words[1024];
};

/* What a socket of the pod is to us. */
struct socket_state {
	struct endpoint original; /* where the application meant to go, with SOCKET_CAPTURED or SOCKET_DNS */
	struct endpoint client;   /* on whose behalf the proxy connects, with SOCKET_UPSTREAM */
	__u32 flags;
};
#define SOCKET_CAPTURED 1
#define SOCKET_DNS 2
#define SOCKET_UPSTREAM 4
#define SOCKET_LISTENER 8
#define SOCKET_PROBE 16
#define SOCKET_REGISTERED 32

#define FLOWS_MAX 256

_Static_assert(sizeof(struct endpoint) == 20, "as in init/abi/src/ebpf.rs");
_Static_assert(sizeof(struct settings) == 40, "as in init/src/ebpf/maps.rs");
_Static_assert(sizeof(struct claim) == 40, "as in init/abi/src/ebpf.rs");
_Static_assert(sizeof(struct counters) == 152, "as in init/abi/src/ebpf.rs");
_Static_assert(sizeof(struct flow) == 32, "as in init/abi/src/ebpf.rs");
_Static_assert(sizeof(struct network) == 20, "as in init/src/ebpf/maps.rs");

#define SEC(name) __attribute__((section(name), used))
#define inline __attribute__((always_inline)) inline
#define __uint(name, value) int(*name)[value]
#define __type(name, type) typeof(type) *name
#define LIBBPF_PIN_BY_NAME 1

/* Socket options that lead packets elsewhere than the socket's address says (ip(7), ipv6(7), socket(7)). */
#define LEVEL_IP 0
#define LEVEL_SOCKET 1
#define LEVEL_IPV6 41
#define IP_OPTIONS 4
#define IPV6_2292PKTOPTIONS 6
#define IPV6_RTHDR 57
#define SO_BINDTODEVICE 25
#define SO_BINDTOIFINDEX 62
/* IPv6's routing header (RFC 8200, section 4.4). */
#define NEXT_HEADER_ROUTING 43

/* Takes the address of a family from a context or socket. All fields are read before one is chosen: else clang merges the two
 * families into one read at a computed offset, and the verifier forbids arithmetic on such pointers. */
#define READ(field) (*(volatile __u32 *)&(field))
#define ENDPOINT(to, family, ip4, ip6)                                                                   \
	do {                                                                                             \
		__u32 is4 = READ(family) == AF_INET4, v4 = READ(ip4);                                    \
		__u32 a = READ((ip6)[0]), b = READ((ip6)[1]), c = READ((ip6)[2]), d = READ((ip6)[3]);    \
		(to)->address[0] = is4 ? 0 : a;                                                          \
		(to)->address[1] = is4 ? 0 : b;                                                          \
		(to)->address[2] = is4 ? be32(0xffff) : c;                                               \
		(to)->address[3] = is4 ? v4 : d;                                                         \
	} while (0)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((__be16)__builtin_bswap16(x))
#define be32(x) ((__be32)__builtin_bswap32(x))
#else
#define be16(x) ((__be16)(x))
#define be32(x) ((__be32)(x))
#endif

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const current_cgroup)(void) = (void *)BPF_FUNC_get_current_cgroup_id;
static void *(*const storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)BPF_FUNC_sk_storage_get;
static long (*const storage_delete)(void *map, void *sk) = (void *)BPF_FUNC_sk_storage_delete;
static long (*const sk_assign)(void *ctx, void *sk, __u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*const sk_release)(void *sk) = (void *)BPF_FUNC_sk_release;
static long (*const sock_map_update)(struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags) = (void *)BPF_FUNC_sock_map_update;
static long (*const cb_flags_set)(struct bpf_sock_ops *ctx, int flags) = (void *)BPF_FUNC_sock_ops_cb_flags_set;
static __u64 (*const skb_cgroup)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_cgroup_id;
static long (*const skb_load)(const struct __sk_buff *skb, __u32 offset, void *to, __u32 bytes) = (void *)BPF_FUNC_skb_load_bytes;

#endif
