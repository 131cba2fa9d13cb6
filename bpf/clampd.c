/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * clampd's tc programs: one per hook and kind of device. bcc rewrites map access only in this file, so the maps
 * and everything that touches them live here; what happens to a packet is in the headers.
 *
 * Every program returns TC_ACT_UNSPEC: other filters on the hook run as if we were not there.
 */
#define BPF_LICENSE Dual MIT/GPL

#include "abi.h"
#include "packet.h"
#include "tcp_mss.h"
#include "too_big.h"

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
BPF_RINGBUF_OUTPUT(clampd_events, 16);

/* Both hooks hold off softirqs, and the counters are per CPU: a plain increment is exact. */
static __always_inline void count(u32 reason)
{
	u64 *counter = clampd_reason.lookup(&reason);

	if (counter)
		(*counter)++;
}

static __always_inline void count_for_peer(u32 index, int reason)
{
	struct clampd_counters *counters;

	if (reason != REASON_CLAMPED && reason != REASON_WOULD_CLAMP)
		return;
	counters = clampd_count.lookup(&index);
	if (!counters)
		return;
	if (reason == REASON_CLAMPED)
		counters->clamped++;
	else
		counters->would_clamp++;
}

static __always_inline bool enforcing(const struct clampd_peer *peer)
{
	u64 until = peer->enforce_until;

	if (until == 0 || until == CLAMPD_FOREVER)
		return until != 0;
	return bpf_ktime_get_boot_ns() < until;
}

/* What the peer at *index, if there is one, asks for. Returns what became of the SYN. */
static __always_inline int clamp_for_peer(struct __sk_buff *skb, const struct segment *seg, const u32 *index,
					  bool ipv6)
{
	struct clampd_peer *peer;
	u32 peer_index;
	int reason;

	if (!index)
		return REASON_NO_PEER;
	peer_index = *index;
	peer = clampd_peer.lookup(&peer_index);
	if (!peer)
		return REASON_NO_PEER;
	if (!(peer->flags & CLAMPD_PEER_CLAMP))
		return REASON_CLAMP_OFF;
	reason = lower_mss(skb, seg, ipv6 ? peer->mss6 : peer->mss4, enforcing(peer));
	count_for_peer(peer_index, reason);
	return reason;
}

static __always_inline int handle(struct __sk_buff *skb, u32 link, enum direction direction)
{
	struct segment seg = {};
	int reason;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		struct clampd_prefix4 key = {.prefixlen = 64, .ifindex = skb->ifindex};

		reason = find_syn4(skb, link, direction, &seg, &key);
		if (reason == REASON_CLAMPED)
			reason = clamp_for_peer(skb, &seg, clampd_pfx4.lookup(&key), false);
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		struct clampd_prefix6 key = {.prefixlen = 160, .ifindex = skb->ifindex};

		reason = find_syn6(skb, link, direction, &seg, &key);
		if (reason == REASON_CLAMPED)
			reason = clamp_for_peer(skb, &seg, clampd_pfx6.lookup(&key), true);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (reason != NOT_OURS)
		count(reason);
	return TC_ACT_UNSPEC;
}

/* One more answer in this second? Two CPUs that ask at once may both get a yes: a limit, not an account. */
static __always_inline bool within(struct clampd_window *window, u32 limit, u64 now)
{
	if (now - window->began >= 1000000000ULL) {
		window->began = now;
		window->answers = 0;
	}
	if (window->answers >= limit)
		return false;
	window->answers++;
	return true;
}

static __always_inline u32 mix(u32 hash, u32 word)
{
	hash = (hash ^ word) * 0x9e3779b1;
	return hash ^ hash >> 15;
}

static __always_inline bool rate_allows(struct __sk_buff *skb, const struct clampd_config *config, u32 peer_index,
					u32 sender, u64 now)
{
	u32 slot = bpf_get_hash_recalc(skb) % CLAMPD_FLOWS;
	struct clampd_window *window;
	u64 *last;

	last = clampd_flow.lookup(&slot);
	if (!last || (*last && now - *last < config->flow_gap))
		return false;
	/* The hash's upper bits: in these every bit of the address counts, the last ones of a network's hosts too. */
	slot = (u64)sender * CLAMPD_SENDERS >> 32;
	window = clampd_sender.lookup(&slot);
	if (!window || !within(window, config->per_sender, now))
		return false;
	window = clampd_rate.lookup(&peer_index);
	if (!window || !within(window, config->per_peer, now))
		return false;
	*last = now;
	return true;
}

static __always_inline void tell(struct __sk_buff *skb, u32 peer_index, enum clampd_event_kind kind,
				 const struct outgoing *out, u16 mtu, u64 now)
{
	struct clampd_burst *burst = clampd_burst.lookup(&peer_index);
	struct clampd_event event = {
		.peer = peer_index,
		.ifindex = skb->ifindex,
		.size = out->size,
		.mtu = mtu,
		.kind = kind,
		.family = out->family,
	};

	if (!burst)
		return;
	if (now - burst->last[kind] >= 1000000000ULL)
		clampd_events.ringbuf_output(&event, sizeof(event), 0);
	burst->last[kind] = now;
}

/* An oversize packet to the peer: counted, told, and answered if it may be. Returns the verdict for it. */
static __always_inline int oversize(struct __sk_buff *skb, u32 link, const struct outgoing *out, u32 peer_index,
				    const struct clampd_peer *peer, u16 mtu, u32 sender)
{
	struct clampd_counters *counters = clampd_count.lookup(&peer_index);
	struct clampd_order order = {
		.ifindex = skb->ifindex,
		.mtu = mtu,
		.size = out->size,
		.link = link,
		.magic = CLAMPD_ORDER_MAGIC,
		.ethertype = skb->protocol,
	};
	struct clampd_config *config;
	u64 now = bpf_ktime_get_boot_ns();
	u32 zero = 0;
	int verdict;
	bool sent;

	config = clampd_config.lookup(&zero);
	if (!counters || !config)
		return TC_ACT_UNSPEC;
	counters->oversize++;
	if (out->size > counters->largest)
		counters->largest = out->size;
	if (out->df_clear) {
		counters->oversize_df_clear++;
		tell(skb, peer_index, EVENT_OVERSIZE_DF_CLEAR, out, mtu, now);
		return TC_ACT_UNSPEC;
	}
	tell(skb, peer_index, EVENT_OVERSIZE, out, mtu, now);
	if (!(peer->flags & CLAMPD_PEER_ANSWER))
		return TC_ACT_UNSPEC;
	if (!out->answerable || skb->pkt_type == PACKET_BROADCAST || skb->pkt_type == PACKET_MULTICAST ||
	    is_icmp_error(skb, out)) {
		counters->unanswerable++;
		return TC_ACT_UNSPEC;
	}
	if (!rate_allows(skb, config, peer_index, sender, now)) {
		counters->suppressed++;
		tell(skb, peer_index, EVENT_SUPPRESSED, out, mtu, now);
		return TC_ACT_UNSPEC;
	}
	if (!enforcing(peer)) {
		counters->would_answer++;
		return TC_ACT_UNSPEC;
	}
	if (!config->builder) {
		counters->unanswerable++;
		return TC_ACT_UNSPEC;
	}
	verdict = order_answer(skb, config->builder, &order, &sent);
	if (sent)
		counters->too_big_sent++;
	else
		counters->unanswerable++;
	return verdict;
}

/* Towards a peer: is the packet larger than its MTU? Returns the verdict. */
static __always_inline int check_size(struct __sk_buff *skb, u32 link)
{
	struct outgoing out = {};
	struct clampd_peer *peer;
	u32 *index, peer_index, sender;
	u16 mtu;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		struct clampd_prefix4 key = {.prefixlen = 64, .ifindex = skb->ifindex};

		if (!look_at_outgoing4(skb, link, &out, &key))
			return TC_ACT_UNSPEC;
		index = clampd_pfx4.lookup(&key);
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		struct clampd_prefix6 key = {.prefixlen = 160, .ifindex = skb->ifindex};

		if (!look_at_outgoing6(skb, link, &out, &key))
			return TC_ACT_UNSPEC;
		index = clampd_pfx6.lookup(&key);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (!index)
		return TC_ACT_UNSPEC;
	peer_index = *index;
	peer = clampd_peer.lookup(&peer_index);
	if (!peer || !peer->mtu)
		return TC_ACT_UNSPEC;
	mtu = peer->mtu;
	if (out.family == 6 && mtu < IPV6_MIN_MTU)
		mtu = IPV6_MIN_MTU; /* smaller values would be ignored (RFC 8201 section 4): the tunnel must fragment */
	out.size = size_on_wire(skb, link, &out);
	if (out.size <= mtu)
		return TC_ACT_UNSPEC;
	sender = 0;
	if (out.family == 4) {
		bpf_skb_load_bytes(skb, link + 12, &sender, 4);
		sender = mix(0, sender);
	} else {
		u32 words[4] = {};

		bpf_skb_load_bytes(skb, link + 8, words, 16);
		sender = mix(mix(mix(mix(0, words[0]), words[1]), words[2]), words[3]);
	}
	return oversize(skb, link, &out, peer_index, peer, mtu, sender);
}

static __always_inline bool may_be_oversize(struct __sk_buff *skb, u32 link)
{
	struct clampd_config *config;
	u32 zero = 0;

	if (skb->len <= link + SMALLEST_ANSWERED)
		return false;
	config = clampd_config.lookup(&zero);
	return config && skb->len > link + config->small_packet;
}

static __always_inline void note_seen(struct __sk_buff *skb, enum direction direction)
{
	u32 slot = (skb->ifindex * 2 + direction) % CLAMPD_SEEN;
	u64 *seen = clampd_seen.lookup(&slot);

	if (seen)
		(*seen)++;
}

static __always_inline int handle_ingress(struct __sk_buff *skb, u32 link)
{
	note_seen(skb, INGRESS);
	return handle(skb, link, INGRESS);
}

/* Sizes first: the verifier follows the few ends of that into the many paths of the other, not the reverse. */
static __always_inline int handle_egress(struct __sk_buff *skb, u32 link)
{
	int verdict;

	note_seen(skb, EGRESS);
	if (may_be_oversize(skb, link)) {
		verdict = check_size(skb, link);
		if (verdict != TC_ACT_UNSPEC)
			return verdict;
	}
	return handle(skb, link, EGRESS);
}

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

/* At the private pair's other end. */
int clampd_answer(struct __sk_buff *skb)
{
	return build_answer(skb);
}
