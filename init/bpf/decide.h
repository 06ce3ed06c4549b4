/* Who asks, where to, and what is done about it: counting, the proxy's identity, the verdict on a destination. */
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
