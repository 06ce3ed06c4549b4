/* Connections that open and close, and inbound ones on their way to a listener. */
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
