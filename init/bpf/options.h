/* The private options by which the proxy speaks with the programs, and options of others that are refused. */
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
