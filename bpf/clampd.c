/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * clampd's tc programs: one per hook and kind of device. bcc rewrites map access only in this file, so the maps
 * live here, with a function for each look-up; what happens to a packet is in the headers.
 *
 * Every program returns TC_ACT_UNSPEC: other filters on the hook run as if we were not there.
 */
#define BPF_LICENSE Dual MIT/GPL

#include "abi.h"
#include "event.h"
#include "outer.h"
#include "packet.h"
#include "tcp_mss.h"
#include "too_big.h"
#include "watch.h"

/* Allocates per entry: the size is a bound. */
#define BPF_SPARSE_HASH(name, key, leaf, size) BPF_F_TABLE("hash", key, leaf, name, size, BPF_F_NO_PREALLOC)

BPF_ARRAY(clampd_meta, struct clampd_meta, 1);
BPF_HASH(clampd_device, u32, struct clampd_device, CLAMPD_MAX_DEVICES);
BPF_LPM_TRIE(clampd_pfx4, struct clampd_prefix4, u32, CLAMPD_MAX_PREFIXES);
BPF_LPM_TRIE(clampd_pfx6, struct clampd_prefix6, u32, CLAMPD_MAX_PREFIXES);
BPF_ARRAY(clampd_peer, struct clampd_peer, CLAMPD_MAX_PEERS);
BPF_PERCPU_ARRAY(clampd_count, struct clampd_counters, CLAMPD_MAX_PEERS);
BPF_PERCPU_ARRAY(clampd_reason, u64, REASON_COUNT);
BPF_ARRAY(clampd_config, struct clampd_config, 1);
BPF_ARRAY(clampd_flow, u64, CLAMPD_FLOWS);
BPF_ARRAY(clampd_sender, struct clampd_window, CLAMPD_SENDERS);
BPF_ARRAY(clampd_rate, struct clampd_window, CLAMPD_MAX_PEERS);
BPF_ARRAY(clampd_burst, struct clampd_burst, CLAMPD_MAX_PEERS);
BPF_PERCPU_ARRAY(clampd_seen, u64, CLAMPD_SEEN);
BPF_RINGBUF_OUTPUT(clampd_events, 64);
BPF_PERCPU_ARRAY(clampd_clock, struct clampd_clock, 1);
BPF_ARRAY(clampd_told, struct clampd_window, EVENT_COUNT);
BPF_ARRAY(clampd_stall, struct clampd_stall, CLAMPD_STALLS);
BPF_ARRAY(clampd_acked, struct clampd_acked, CLAMPD_MAX_PEERS);
BPF_HASH(clampd_prober, u64, u32, CLAMPD_PROBERS);
BPF_ARRAY(clampd_near, u64, CLAMPD_NEAR / 64);
BPF_SPARSE_HASH(clampd_endpoint, struct clampd_endpoint_key, struct clampd_endpoint, CLAMPD_ENDPOINTS);
BPF_SPARSE_HASH(clampd_length, struct clampd_length_key, struct clampd_length, CLAMPD_LENGTHS);

/* What the headers below know of the maps. */

static __always_inline u64 *reason_counter(u32 reason)
{
	return clampd_reason.lookup(&reason);
}

static __always_inline u32 *find_peer4(struct clampd_prefix4 *key)
{
	return clampd_pfx4.lookup(key);
}

static __always_inline u32 *find_peer6(struct clampd_prefix6 *key)
{
	return clampd_pfx6.lookup(key);
}

static __always_inline struct clampd_peer *peer_at(u32 index)
{
	return clampd_peer.lookup(&index);
}

static __always_inline struct clampd_counters *counters_of(u32 peer)
{
	return clampd_count.lookup(&peer);
}

static __always_inline struct clampd_window *rate_of(u32 peer)
{
	return clampd_rate.lookup(&peer);
}

static __always_inline struct clampd_burst *burst_of(u32 peer)
{
	return clampd_burst.lookup(&peer);
}

static __always_inline struct clampd_config *the_config(void)
{
	u32 zero = 0;

	return clampd_config.lookup(&zero);
}

static __always_inline u64 *flow_at(u32 slot)
{
	return clampd_flow.lookup(&slot);
}

static __always_inline struct clampd_window *sender_at(u32 slot)
{
	return clampd_sender.lookup(&slot);
}

static __always_inline struct clampd_stall *stall_at(u32 place)
{
	return clampd_stall.lookup(&place);
}

static __always_inline struct clampd_acked *acked_of(u32 peer)
{
	return clampd_acked.lookup(&peer);
}

static __always_inline u64 *seen_at(u32 slot)
{
	return clampd_seen.lookup(&slot);
}

static __always_inline bool is_prober(u64 cookie)
{
	return clampd_prober.lookup(&cookie);
}

static __always_inline u64 near_bits_at(u32 slot)
{
	u64 *bits = clampd_near.lookup(&slot);

	return bits ? *bits : 0;
}

static __always_inline struct clampd_endpoint *endpoint_of(struct clampd_endpoint_key *key)
{
	return clampd_endpoint.lookup(key);
}

static __always_inline struct clampd_length *length_of(struct clampd_length_key *key)
{
	return clampd_length.lookup(key);
}

/* The time in boot-time ns, at most a jiffy old. */
static __always_inline u64 coarse_now(void)
{
	u64 jiffies = bpf_jiffies64();
	struct clampd_clock *clock;
	u32 zero = 0;

	clock = clampd_clock.lookup(&zero);
	if (!clock)
		return 0;
	if (clock->jiffies != jiffies) {
		clock->jiffies = jiffies;
		clock->now = bpf_ktime_get_boot_ns();
	}
	return clock->now;
}

/* Whether the agent is there to hear, and to put back what is only for a moment. */
static __always_inline bool is_attended(void)
{
	struct clampd_config *config = the_config();

	return config && coarse_now() < config->attended_until;
}

/* Whether all peers together may tell one more of this kind in this second. */
static __always_inline bool may_tell(u32 kind, u64 now)
{
	struct clampd_window *window = clampd_told.lookup(&kind);

	return window && within(window, CLAMPD_TOLD_RATE, now);
}

static __always_inline void tell(struct __sk_buff *skb, u32 link, const struct news *news)
{
	struct clampd_event *event = clampd_events.ringbuf_reserve(sizeof(struct clampd_event));

	if (!event)
		return; /* the reader is behind: it learns enough from what is there */
	write_event(event, skb, link, news);
	clampd_events.ringbuf_submit(event, 0);
}

#include "managed.h"
#include "underlay.h"

int clampd_l2_in(struct __sk_buff *skb)
{
	return handle_ingress(skb, ETHERNET_HEADER);
}

int clampd_l2_eg(struct __sk_buff *skb)
{
	return handle_egress(skb, ETHERNET_HEADER);
}

int clampd_l3_in(struct __sk_buff *skb)
{
	return handle_ingress(skb, NO_LINK_HEADER);
}

int clampd_l3_eg(struct __sk_buff *skb)
{
	return handle_egress(skb, NO_LINK_HEADER);
}

/* On the underlay's devices. */
int clampd_u2_in(struct __sk_buff *skb)
{
	return underlay_ingress(skb, ETHERNET_HEADER);
}

int clampd_u2_eg(struct __sk_buff *skb)
{
	return underlay_egress(skb, ETHERNET_HEADER);
}

int clampd_u3_in(struct __sk_buff *skb)
{
	return underlay_ingress(skb, NO_LINK_HEADER);
}

int clampd_u3_eg(struct __sk_buff *skb)
{
	return underlay_egress(skb, NO_LINK_HEADER);
}

/* At the private pair's other end. */
int clampd_answer(struct __sk_buff *skb)
{
	return build_answer(skb);
}
