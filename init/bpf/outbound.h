/* An application connects, or sends a datagram. */
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
