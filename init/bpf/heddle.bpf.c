/* The kernel's side of capture by eBPF, and of the guard: programs on a pod's cgroup and one on its network namespace.
 *
 * The way of an outbound connection: connect4/6 keep where the application meant to go in the socket's storage and send the
 * socket to the proxy; connection_opened files it under the socket's own address, which the proxy sees as its client's and
 * asks for with OPTION_DESTINATION. Of an inbound one: steer_inbound gives it to the proxy's listener; the proxy says with
 * OPTION_CLIENT whom it connects for, connection_opened files that, and getpeername4/6 tell the application.
 *
 * Invariants: who is the proxy is decided by cgroup alone (claim_proxy). Whatever cannot be decided is refused.
 */
#include "heddle.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} settings SEC(".maps");

/* Who is the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct claim);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} claims SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* Destinations that are not simply captured. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} out_networks SEC(".maps");

/* Clients whose connections go to the application directly. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} in_networks SEC(".maps");

/* Excluded ports in host order, one bit a port. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ports);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} out_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ports);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} in_ports SEC(".maps");

/* Indexes of excluded interfaces. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} in_interfaces SEC(".maps");

/* The proxy's listeners for inbound connections: IPv4, IPv6. A closed one is gone from here by itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sockets SEC(".maps");

/* An application's own address -> where it meant to go. Taken out when the proxy accepts, or when the connection ends where MPTCP is
 * in use. An entry that nobody takes out is replaced when its port is used again. Sizes are those of the kernel's bucket arrays, 16
 * bytes each, which every pod pays for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, struct endpoint);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} originals SEC(".maps");

/* A connection of the proxy to the application, as the application sees it -> whose it is. Gone with the connection. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pair);
	__type(value, struct endpoint);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} clients SEC(".maps");

/* What went past the proxy or was refused: its place in `flows`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flow_places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows SEC(".maps");

/* The only place of a map of one. */
#define ZERO ((__u32){ 0 })

enum verdict { REFUSE, PASS, TO_PROXY, TO_DNS };

static inline struct counters *counted(void)
{
	return map_lookup(&counters, &ZERO);
}

static inline void count_refusal(__u32 reason)
{
	struct counters *all = counted();
	if (all && reason < REASONS)
		__sync_fetch_and_add(&all->refused[reason], 1);
}

/* One more of this flow. The table is full at some time; what comes then is counted together. */
static inline void count_flow(const struct flow_key *key, __u32 refused)
{
	struct counters *all = counted();
	if (!all)
		return;
	__u32 *place = map_lookup(&flow_places, key);
	if (place) {
		__u32 at = *place;
		struct flow *known = map_lookup(&flows, &at);
		if (known)
			__sync_fetch_and_add(&known->count, 1);
		return;
	}
	/* Looked at first, so that the number stays near the maximum whatever happens later. */
	__u64 next = all->flows;
	if (next < FLOWS_MAX)
		next = __sync_fetch_and_add(&all->flows, 1);
	__u32 at = next;
	struct flow *fresh = next < FLOWS_MAX ? map_lookup(&flows, &at) : 0;
	if (!fresh) {
		__sync_fetch_and_add(&all->overflow, 1);
		return;
	}
	fresh->key = *key;
	fresh->refused = refused;
	fresh->count = 1;
	map_update(&flow_places, key, &at, BPF_NOEXIST);
}

static inline int is_claimed_by(__u64 cgroup)
{
	struct claim *claim = map_lookup(&claims, &ZERO);
	return claim && cgroup && claim->cgroup == cgroup;
}

static inline int is_proxy(void)
{
	return is_claimed_by(current_cgroup());
}

static inline int is_loopback(const __u32 *address)
{
	if (address[0] == 0 && address[1] == 0 && address[2] == be32(0xffff))
		return (address[3] & be32(0xff000000)) == be32(0x7f000000);
	return address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == be32(1);
}

static inline int is_capture_port(__be16 port)
{
	return port == be16(OUTBOUND_PORT) || port == be16(INBOUND_PORT) || port == be16(DNS_PORT);
}

static inline int is_proxy_port(__u32 port)
{
	return is_capture_port(port) || port == be16(HBONE_PORT) || port == be16(15000) || port == be16(15020) || port == be16(15021);
}

static inline int has_port(void *map, __u32 port)
{
	struct ports *set = map_lookup(map, &ZERO);
	return set && (set->words[(port >> 6) & 1023] >> (port & 63) & 1);
}

static inline __u32 network_of(const struct endpoint *to)
{
	struct network key = { .prefix_bits = 128 };
	__builtin_memcpy(key.address, to->address, sizeof(key.address));
	__u32 *found = map_lookup(&out_networks, &key);
	return found ? *found : 0;
}

static inline enum verdict refuse(const struct endpoint *to, __u8 protocol, __u8 reason)
{
	struct flow_key key = { .port = to->port, .protocol = protocol, .reason = reason };
	__builtin_memcpy(key.address, to->address, sizeof(key.address));
	count_refusal(reason);
	count_flow(&key, 1);
	return REFUSE;
}

static inline enum verdict bypass(const struct endpoint *to, __u8 protocol, __u8 reason)
{
	struct flow_key key = { .port = to->port, .protocol = protocol, .reason = reason };
	__builtin_memcpy(key.address, to->address, sizeof(key.address));
	count_flow(&key, 0);
	return PASS;
}

/* What an application may do that wants to reach `to`. */
static inline enum verdict judge(const struct endpoint *to, __u8 protocol, __u32 flags, __u32 device)
{
	__u32 network = network_of(to);
	if (network == NETWORK_LOCAL)
		return is_capture_port(to->port) ? refuse(to, protocol, REASON_PROXY_PORT) : PASS;
	__u32 port = be16(to->port);
	if (network == NETWORK_EXCLUDED || (network != NETWORK_ALWAYS && has_port(&out_ports, port)))
		return bypass(to, protocol, REASON_EXCLUDED);
	int dns = port == 53 && (flags & CAPTURE_DNS);
	if (protocol == IPPROTO_TCP || dns) {
		if (device > LOOPBACK_INDEX)
			/* The proxy is reached by loopback, which such a socket does not see. */
			return refuse(to, protocol, REASON_DEVICE);
		if (!(flags & CAPTURE))
			return PASS;
		return dns ? TO_DNS : TO_PROXY;
	}
	if ((flags & GUARD) && port == 443)
		return refuse(to, protocol, REASON_QUIC);
	if ((flags & GUARD_STRICT) && port != 53)
		return refuse(to, protocol, REASON_UDP);
	return bypass(to, protocol, REASON_UDP);
}

/* The proxy's own sockets go where they want, but for those that play an application. Beside TPROXY the proxy is known by the
 * packet mark, as nftables knows it. */
static inline int is_exempt(struct bpf_sock *sk, const struct socket_state *state, __u32 flags)
{
	if (!(flags & CAPTURE) && sk->mark == OWN_MARK)
		return 1;
	return is_proxy() && !(state && (state->flags & SOCKET_PROBE));
}

static inline enum verdict connecting(struct bpf_sock *sk, const struct endpoint *to, __u8 protocol)
{
	struct settings *now = map_lookup(&settings, &ZERO);
	if (!now)
		return REFUSE;
	struct socket_state *state = storage_get(&sockets, sk, 0, 0);
	if (is_exempt(sk, state, now->flags))
		return PASS;
	if (state && (state->flags & SOCKET_DNS) && to->port == be16(DNS_PORT) && is_loopback(to->address))
		/* On an IPv6 socket that is connected to an IPv4 address the kernel asks once more, with what was written here. */
		return PASS;
	enum verdict verdict = judge(to, protocol, now->flags, sk->bound_dev_if);
	if (verdict == TO_PROXY || verdict == TO_DNS) {
		if (!state)
			state = storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!state)
			return REFUSE;
		state->original = *to;
		state->flags = (state->flags & SOCKET_PROBE) | (verdict == TO_DNS ? SOCKET_DNS : SOCKET_CAPTURED);
	} else if (state) {
		/* The socket was connected elsewhere before (connect(2), AF_UNSPEC). */
		state->flags &= SOCKET_PROBE;
	}
	return verdict;
}

static inline __be16 proxy_port(enum verdict verdict)
{
	return verdict == TO_DNS ? be16(DNS_PORT) : be16(OUTBOUND_PORT);
}

static inline void destination4(struct bpf_sock_addr *ctx, struct endpoint *to)
{
	to->address[2] = be32(0xffff);
	to->address[3] = ctx->user_ip4;
	to->port = ctx->user_port;
}

static inline void destination6(struct bpf_sock_addr *ctx, struct endpoint *to)
{
	to->address[0] = ctx->user_ip6[0];
	to->address[1] = ctx->user_ip6[1];
	to->address[2] = ctx->user_ip6[2];
	to->address[3] = ctx->user_ip6[3];
	to->port = ctx->user_port;
}

static inline void set_destination6(struct bpf_sock_addr *ctx, const __u32 *address)
{
	ctx->user_ip6[0] = address[0];
	ctx->user_ip6[1] = address[1];
	ctx->user_ip6[2] = address[2];
	ctx->user_ip6[3] = address[3];
}

static inline int outbound4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 0;
	struct endpoint to = {};
	destination4(ctx, &to);
	enum verdict verdict = connecting(sk, &to, ctx->protocol);
	if (verdict == TO_PROXY || verdict == TO_DNS) {
		ctx->user_ip4 = be32(0x7f000001);
		ctx->user_port = proxy_port(verdict);
	}
	return verdict != REFUSE;
}

static inline int outbound6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 0;
	struct endpoint to = {};
	destination6(ctx, &to);
	enum verdict verdict = connecting(sk, &to, ctx->protocol);
	if (verdict == TO_PROXY || verdict == TO_DNS) {
		int mapped = to.address[0] == 0 && to.address[1] == 0 && to.address[2] == be32(0xffff);
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = mapped ? be32(0xffff) : 0;
		ctx->user_ip6[3] = mapped ? be32(0x7f000001) : be32(1);
		ctx->user_port = proxy_port(verdict);
	}
	return verdict != REFUSE;
}

SEC("cgroup/connect4")
int heddle_connect4(struct bpf_sock_addr *ctx)
{
	return outbound4(ctx);
}

SEC("cgroup/connect6")
int heddle_connect6(struct bpf_sock_addr *ctx)
{
	return outbound6(ctx);
}

SEC("cgroup/sendmsg4")
int heddle_sendmsg4(struct bpf_sock_addr *ctx)
{
	return outbound4(ctx);
}

SEC("cgroup/sendmsg6")
int heddle_sendmsg6(struct bpf_sock_addr *ctx)
{
	return outbound6(ctx);
}

/* A DNS answer comes from the proxy; the application asked somebody else. */
SEC("cgroup/recvmsg4")
int heddle_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk || ctx->user_port != be16(DNS_PORT))
		return 1;
	struct socket_state *state = storage_get(&sockets, sk, 0, 0);
	if (state && (state->flags & SOCKET_DNS)) {
		ctx->user_ip4 = state->original.address[3];
		ctx->user_port = state->original.port;
	}
	return 1;
}

SEC("cgroup/recvmsg6")
int heddle_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk || ctx->user_port != be16(DNS_PORT))
		return 1;
	struct socket_state *state = storage_get(&sockets, sk, 0, 0);
	if (state && (state->flags & SOCKET_DNS)) {
		set_destination6(ctx, state->original.address);
		ctx->user_port = state->original.port;
	}
	return 1;
}

/* Who is at the other end, as the application should see it; none when that is who the kernel says. */
static inline struct endpoint *peer_of(struct bpf_sock *sk, const struct endpoint *peer, const struct endpoint *local)
{
	struct socket_state *state = storage_get(&sockets, sk, 0, 0);
	if (state && (state->flags & (SOCKET_CAPTURED | SOCKET_DNS)))
		return &state->original;
	struct pair pair = { .local = *local, .remote = *peer };
	struct endpoint *client = map_lookup(&clients, &pair);
	if (!client && peer->port == be16(OUTBOUND_PORT) && is_loopback(peer->address))
		/* An MPTCP socket: the storage is on the subflow's, which no program finds from here. */
		return map_lookup(&originals, local);
	return client;
}

SEC("cgroup/getpeername4")
int heddle_getpeername4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct endpoint peer = {}, local = {};
	destination4(ctx, &peer);
	local.address[2] = be32(0xffff);
	local.address[3] = sk->src_ip4;
	local.port = be16(sk->src_port);
	struct endpoint *seen = peer_of(sk, &peer, &local);
	if (seen && seen->address[2] == be32(0xffff)) {
		ctx->user_ip4 = seen->address[3];
		ctx->user_port = seen->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int heddle_getpeername6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct endpoint peer = {}, local = {};
	destination6(ctx, &peer);
	local.address[0] = sk->src_ip6[0];
	local.address[1] = sk->src_ip6[1];
	local.address[2] = sk->src_ip6[2];
	local.address[3] = sk->src_ip6[3];
	local.port = be16(sk->src_port);
	struct endpoint *seen = peer_of(sk, &peer, &local);
	if (seen) {
		set_destination6(ctx, seen->address);
		ctx->user_port = seen->port;
	}
	return 1;
}

/* A captured socket is bound to loopback in truth; the application should see the address that its pod has. */
static inline int own_address(struct bpf_sock *sk, const struct endpoint *bound, __u32 *own)
{
	struct settings *now = map_lookup(&settings, &ZERO);
	struct socket_state *state = sk ? storage_get(&sockets, sk, 0, 0) : 0;
	if (!now || !sk || !is_loopback(bound->address))
		return 0;
	if (state && (state->flags & SOCKET_PROBE))
		/* The proxy recognizes its probe by the address that it really has. */
		return 0;
	if (!(state && (state->flags & (SOCKET_CAPTURED | SOCKET_DNS))) &&
	    /* An MPTCP socket, as in peer_of. */
	    !(sk->dst_port == be16(OUTBOUND_PORT) && map_lookup(&originals, bound)))
		return 0;
	/* All are read before one is chosen: an address in the map that depends on the family is forbidden, too. */
	__u32 v4 = READ(now->own4[3]);
	__u32 a = READ(now->own6[0]), b = READ(now->own6[1]), c = READ(now->own6[2]), d = READ(now->own6[3]);
	int is4 = bound->address[2] == be32(0xffff);
	own[0] = is4 ? 0 : a;
	own[1] = is4 ? 0 : b;
	own[2] = is4 ? be32(0xffff) : c;
	own[3] = is4 ? v4 : d;
	return own[3] != 0;
}

SEC("cgroup/getsockname4")
int heddle_getsockname4(struct bpf_sock_addr *ctx)
{
	struct endpoint bound = {};
	__u32 own[4];
	destination4(ctx, &bound);
	if (own_address(ctx->sk, &bound, own))
		ctx->user_ip4 = own[3];
	return 1;
}

SEC("cgroup/getsockname6")
int heddle_getsockname6(struct bpf_sock_addr *ctx)
{
	struct endpoint bound = {};
	__u32 own[4];
	destination6(ctx, &bound);
	if (own_address(ctx->sk, &bound, own))
		set_destination6(ctx, own);
	return 1;
}

/* The proxy's ports are the proxy's: with SO_REUSEPORT an application of its uid could take a share of its connections. */
static inline int binding(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!is_proxy_port(ctx->user_port) || is_proxy())
		return 1;
	struct settings *now = map_lookup(&settings, &ZERO);
	if (now && sk && !(now->flags & CAPTURE) && sk->mark == OWN_MARK)
		return 1;
	count_refusal(REASON_PROXY_PORT);
	return 0;
}

SEC("cgroup/bind4")
int heddle_bind4(struct bpf_sock_addr *ctx)
{
	return binding(ctx);
}

SEC("cgroup/bind6")
int heddle_bind6(struct bpf_sock_addr *ctx)
{
	return binding(ctx);
}

/* The guard refuses protocols that carry data and that nobody captures: SCTP, DCCP, L2TP, UDP-Lite. */
SEC("cgroup/sock_create")
int heddle_sock_create(struct bpf_sock *ctx)
{
	__u32 protocol = ctx->protocol;
	struct settings *now = map_lookup(&settings, &ZERO);
	struct counters *all = counted();
	if (protocol == IPPROTO_MPTCP && all)
		all->mptcp = 1;
	if (!now || !(now->flags & GUARD) || ctx->type == SOCK_RAW_TYPE || protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_MPTCP ||
	    protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return 1;
	count_refusal(REASON_PROTOCOL);
	return 0;
}

/* The first process that claims is the proxy: it starts before the application does. Whoever claims from another cgroup later
 * must know its key: a new container of the same proxy. */
static inline int claim_proxy(const __u64 *key)
{
	struct claim *claim = map_lookup(&claims, &ZERO);
	__u64 cgroup = current_cgroup();
	if (!claim || !cgroup || !(key[0] | key[1] | key[2] | key[3]))
		return 0;
	if (claim->cgroup == cgroup)
		return 1;
	if (__sync_val_compare_and_swap(&claim->cgroup, 0, cgroup) == 0) {
		claim->key[0] = key[0];
		claim->key[1] = key[1];
		claim->key[2] = key[2];
		claim->key[3] = key[3];
		return 1;
	}
	/* A key that is still being written is equal to none, since no key is zero. */
	if (claim->key[0] == key[0] && claim->key[1] == key[1] && claim->key[2] == key[2] && claim->key[3] == key[3]) {
		claim->cgroup = cgroup;
		return 1;
	}
	return 0;
}

static inline int set_option(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	void *value = ctx->optval, *end = ctx->optval_end;
	if (ctx->optname == OPTION_CLAIM) {
		__u64 key[4];
		if (value + sizeof(key) > end)
			return 0;
		__builtin_memcpy(key, value, sizeof(key));
		return claim_proxy(key);
	}
	if (!is_proxy())
		return 0;
	struct socket_state *state = storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		return 0;
	if (ctx->optname == OPTION_LISTENER) {
		state->flags |= SOCKET_LISTENER;
		return 1;
	}
	if (ctx->optname == OPTION_PROBE) {
		state->flags |= SOCKET_PROBE;
		return 1;
	}
	if (ctx->optname == OPTION_CLIENT && value + sizeof(struct endpoint) <= end) {
		__builtin_memcpy(&state->client, value, sizeof(struct endpoint));
		state->flags |= SOCKET_UPSTREAM;
		return 1;
	}
	return 0;
}

/* Source routes, and a device chosen after the socket was handed to the proxy. */
static inline int leads_past_proxy(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	__u32 level = ctx->level, name = ctx->optname;
	if (level == LEVEL_IPV6)
		return name == IPV6_RTHDR || name == IPV6_2292PKTOPTIONS;
	if (level == LEVEL_IP)
		return name == IP_OPTIONS && ctx->optlen > 0;
	if (level != LEVEL_SOCKET || (name != SO_BINDTODEVICE && name != SO_BINDTOIFINDEX))
		return 0;
	struct socket_state *state = sk ? storage_get(&sockets, sk, 0, 0) : 0;
	return state && (state->flags & (SOCKET_CAPTURED | SOCKET_DNS));
}

SEC("cgroup/setsockopt")
int heddle_setsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (ctx->level != OPTION_LEVEL) {
		if (leads_past_proxy(ctx, sk) && !is_proxy()) {
			count_refusal(REASON_OPTION);
			return 0;
		}
		/* Of a longer value only the first page is here; 0: the kernel takes the caller's. */
		if (ctx->optlen > 4096)
			ctx->optlen = 0;
		return 1;
	}
	if (!sk || !set_option(ctx, sk)) {
		count_refusal(REASON_CLAIM);
		return 0;
	}
	/* Done: the kernel itself is not asked. */
	ctx->optlen = -1;
	return 1;
}

/* Where the client of this accepted connection meant to go. Asked once, so it is taken out, but for getpeername of MPTCP. */
static inline int destination(struct bpf_sock *sk, struct endpoint *to)
{
	struct endpoint client = {};
	ENDPOINT(&client, sk->family, sk->dst_ip4, sk->dst_ip6);
	client.port = sk->dst_port;
	struct endpoint *original = map_lookup(&originals, &client);
	if (!original)
		return 0;
	*to = *original;
	struct counters *all = counted();
	if (all && !all->mptcp)
		map_delete(&originals, &client);
	return 1;
}

static inline int get_option(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	void *value = ctx->optval, *end = ctx->optval_end;
	__u32 name = ctx->optname;
	if (name == OPTION_DESTINATION) {
		if (value + sizeof(struct endpoint) > end)
			return 0;
		ctx->optlen = sizeof(struct endpoint);
		return destination(sk, value);
	}
	if (name == OPTION_COUNTERS) {
		struct counters *all = counted();
		if (!all || value + sizeof(*all) > end)
			return 0;
		__builtin_memcpy(value, all, sizeof(*all));
		ctx->optlen = sizeof(*all);
		return 1;
	}
	if (name == OPTION_REGISTERED) {
		struct socket_state *state = storage_get(&sockets, sk, 0, 0);
		if (value + sizeof(__u32) > end)
			return 0;
		*(__u32 *)value = state && (state->flags & SOCKET_REGISTERED);
		ctx->optlen = sizeof(__u32);
		return 1;
	}
	if (name >= OPTION_FLOW && name < OPTION_FLOW + FLOWS_MAX) {
		__u32 at = name - OPTION_FLOW;
		struct flow *flow = map_lookup(&flows, &at);
		if (!flow || value + sizeof(*flow) > end)
			return 0;
		__builtin_memcpy(value, flow, sizeof(*flow));
		ctx->optlen = sizeof(*flow);
		return 1;
	}
	return 0;
}

SEC("cgroup/getsockopt")
int heddle_getsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (ctx->level != OPTION_LEVEL) {
		if (ctx->optlen > 4096)
			ctx->optlen = 0;
		return 1;
	}
	/* The kernel knows no such option; what is set here replaces its error. */
	if (sk && is_proxy() && get_option(ctx, sk))
		ctx->retval = 0;
	return 1;
}

static inline void local_of(struct bpf_sock_ops *ctx, struct endpoint *local)
{
	ENDPOINT(local, ctx->family, ctx->local_ip4, ctx->local_ip6);
	local->port = be16(ctx->local_port);
}

static inline void remote_of(struct bpf_sock_ops *ctx, struct endpoint *remote)
{
	ENDPOINT(remote, ctx->family, ctx->remote_ip4, ctx->remote_ip6);
	remote->port = be16(be32(ctx->remote_port));
}

/* A connection has its own port now, and its SYN is not out yet. */
static inline void connection_opened(struct bpf_sock_ops *ctx, const struct socket_state *state)
{
	struct endpoint local = {};
	local_of(ctx, &local);
	struct counters *all = counted();
	if (state->flags & SOCKET_CAPTURED) {
		map_update(&originals, &local, &state->original, BPF_ANY);
		if (all && all->mptcp)
			cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	}
	if (state->flags & SOCKET_UPSTREAM) {
		struct pair seen = { .remote = local };
		remote_of(ctx, &seen.local);
		map_update(&clients, &seen, &state->client, BPF_ANY);
		cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	}
}

static inline void connection_closed(struct bpf_sock_ops *ctx)
{
	struct pair seen = {};
	local_of(ctx, &seen.remote);
	remote_of(ctx, &seen.local);
	map_delete(&clients, &seen);
	if (seen.local.port == be16(OUTBOUND_PORT))
		map_delete(&originals, &seen.remote);
}

SEC("sockops")
int heddle_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 op = ctx->op;
	if (!sk)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB || op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
		struct socket_state *state = storage_get(&sockets, sk, 0, 0);
		if (!state)
			return 1;
		if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
			connection_opened(ctx, state);
		} else if (state->flags & SOCKET_LISTENER) {
			__u32 at = ctx->family == AF_INET4 ? 0 : 1;
			if (!sock_map_update(ctx, &listeners, &at, BPF_ANY))
				state->flags |= SOCKET_REGISTERED;
		}
	} else if (op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE) {
		connection_closed(ctx);
	}
	return 1;
}

/* Whether an inbound connection is the application's own matter. */
static inline int is_direct(struct bpf_sk_lookup *ctx, const struct endpoint *local, const struct endpoint *remote)
{
	/* To the pod's own address over loopback the index is that of the address's interface. */
	if (ctx->ingress_ifindex == LOOPBACK_INDEX || is_loopback(remote->address))
		return 1;
	return local->address[0] == remote->address[0] && local->address[1] == remote->address[1] &&
	       local->address[2] == remote->address[2] && local->address[3] == remote->address[3];
}

static inline int is_excluded_inbound(struct bpf_sk_lookup *ctx, const struct endpoint *remote)
{
	__u32 port = ctx->local_port, interface = ctx->ingress_ifindex;
	struct network key = { .prefix_bits = 128 };
	__builtin_memcpy(key.address, remote->address, sizeof(key.address));
	return has_port(&in_ports, port) || map_lookup(&in_networks, &key) || map_lookup(&in_interfaces, &interface);
}

SEC("sk_lookup")
int heddle_sk_lookup(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	struct endpoint local = {}, remote = {};
	__u32 family = ctx->family == AF_INET4 ? 0 : 1;
	ENDPOINT(&local, ctx->family, ctx->local_ip4, ctx->local_ip6);
	ENDPOINT(&remote, ctx->family, ctx->remote_ip4, ctx->remote_ip6);
	if (is_direct(ctx, &local, &remote))
		return SK_PASS;
	if (is_capture_port(be16(ctx->local_port))) {
		count_refusal(REASON_PROXY_PORT);
		return SK_DROP;
	}
	if (is_excluded_inbound(ctx, &remote))
		return SK_PASS;
	struct bpf_sock *listener = map_lookup(&listeners, &family);
	if (!listener) {
		count_refusal(REASON_NO_LISTENER);
		return SK_DROP;
	}
	long failed = sk_assign(ctx, listener, 0);
	sk_release(listener);
	return failed ? SK_DROP : SK_PASS;
}

/* The guard on what leaves the pod: a connection that begins there and that was not sent to the proxy, a packet that was and leaves
 * all the same, and a route that the packet itself gives. */
SEC("cgroup_skb/egress")
int heddle_egress(struct __sk_buff *skb)
{
	struct settings *now = map_lookup(&settings, &ZERO);
	if (skb->ifindex == LOOPBACK_INDEX || !now)
		return 1;
	if (now->flags & CAPTURE ? is_claimed_by(skb_cgroup(skb)) : skb->mark == OWN_MARK)
		return 1;
	struct endpoint to = {};
	__u8 first, protocol;
	__u32 transport;
	if (skb_load(skb, 0, &first, 1))
		return 0;
	if (first >> 4 == 4) {
		transport = (first & 15) * 4;
		to.address[2] = be32(0xffff);
		if (skb_load(skb, 9, &protocol, 1) || skb_load(skb, 16, &to.address[3], 4))
			return 0;
	} else {
		transport = 40;
		if (skb_load(skb, 6, &protocol, 1) || skb_load(skb, 24, to.address, 16))
			return 0;
	}
	if (is_loopback(to.address) || (first >> 4 == 6 && protocol == NEXT_HEADER_ROUTING))
		return refuse(&to, protocol, REASON_NOT_CAPTURED) != REFUSE;
	if (protocol != IPPROTO_TCP)
		return 1;
	__u8 tcp_flags;
	if (skb_load(skb, transport + 2, &to.port, 2) || skb_load(skb, transport + 13, &tcp_flags, 1))
		return 0;
	/* SYN without ACK. */
	if ((tcp_flags & 0x12) != 0x02)
		return 1;
	__u32 network = network_of(&to), port = be16(to.port);
	if (network == NETWORK_LOCAL || network == NETWORK_EXCLUDED ||
	    (network != NETWORK_ALWAYS && has_port(&out_ports, port)))
		return 1;
	return refuse(&to, protocol, REASON_NOT_CAPTURED) != REFUSE;
}

char LICENSE[] SEC("license") = "Apache-2.0";
