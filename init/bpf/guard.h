/* What nobody but the proxy may bind, what nobody may create, and what may not leave the pod. */
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
