/* Somebody else's program on a pod's cgroup: it lets every connection pass, and must survive whatever we do there. */
__attribute__((section("cgroup/connect4"), used)) int foreign_connect(void *context)
{
	return 1;
}

char LICENSE[] __attribute__((section("license"), used)) = "GPL";
