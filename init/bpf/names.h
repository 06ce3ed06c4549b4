/* What a socket of the pod calls its ends. */
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
