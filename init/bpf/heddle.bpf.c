/* The kernel's side of capture by eBPF, and of the guard: programs on a pod's cgroup and one on its network namespace.
 *
 * The way of an outbound connection: connect4/6 keep where the application meant to go in the socket's storage and send the
 * socket to the proxy; connection_opened files it under the socket's own address, which the proxy sees as its client's and
 * asks for with OPTION_DESTINATION. Of an inbound one: heddle_sk_lookup gives it to the proxy's listener; the proxy says with
 * OPTION_CLIENT whom it connects for, connection_opened files that, and getpeername4/6 tell the application.
 *
 * Invariants: who is the proxy is decided by cgroup alone (claim_proxy). Whatever cannot be decided is refused.
 */
#include "heddle.bpf.h"
#include "maps.h"
#include "decide.h"
#include "outbound.h"
#include "names.h"
#include "options.h"
#include "connections.h"
#include "guard.h"

char LICENSE[] SEC("license") = "Apache-2.0";
