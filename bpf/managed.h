/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the programs on a managed device do: lower the MSS of SYNs, answer packets over their peer's MTU, watch large ones.
 * Part of clampd.c, which has the maps.
 */
#ifndef CLAMPD_MANAGED_H
#define CLAMPD_MANAGED_H

#include "event.h"
#include "tcp_mss.h"
#include "too_big.h"
#include "watch.h"

/* Both hooks hold off softirqs, and the counters are per CPU: a plain increment is exact. */
static __always_inline void count(u32 reason)
{
	u64 *counter = reason_counter(reason);

	if (counter)
		(*counter)++;
}

static __always_inline void count_for_peer(u32 index, int reason)
{
	struct clampd_counters *counters;

	if (reason != REASON_CLAMPED && reason != REASON_WOULD_CLAMP)
		return;
	counters = counters_of(index);
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
	peer = peer_at(peer_index);
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
			reason = clamp_for_peer(skb, &seg, find_peer4(&key), false);
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		struct clampd_prefix6 key = {.prefixlen = 160, .ifindex = skb->ifindex};

		reason = find_syn6(skb, link, direction, &seg, &key);
		if (reason == REASON_CLAMPED)
			reason = clamp_for_peer(skb, &seg, find_peer6(&key), true);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (reason != NOT_OURS)
		count(reason);
	return TC_ACT_UNSPEC;
}

static __always_inline bool rate_allows(struct __sk_buff *skb, const struct clampd_config *config, u32 peer_index,
					u32 sender, u64 now)
{
	u32 slot = bpf_get_hash_recalc(skb) % CLAMPD_FLOWS;
	struct clampd_window *window;
	u64 *last;

	last = flow_at(slot);
	if (!last || (*last && !has_passed(*last, now, config->flow_gap)))
		return false;
	/* The hash's upper bits: in these every bit of the address counts, the last ones of a network's hosts too. */
	slot = (u64)sender * CLAMPD_SENDERS >> 32;
	window = sender_at(slot);
	if (!window || !within(window, config->per_sender, now))
		return false;
	window = rate_of(peer_index);
	if (!window || !within(window, config->per_peer, now))
		return false;
	*last = now;
	return true;
}

/* Tells the first of a kind for a peer after a second without. */
static __always_inline void tell_of_burst(struct __sk_buff *skb, u32 link, const struct news *news, u64 now)
{
	struct clampd_burst *burst = burst_of(news->peer);

	if (!burst)
		return;
	if (has_passed(burst->last[news->kind], now, SECOND))
		tell(skb, link, news);
	burst->last[news->kind] = now;
}

/* An oversize packet to the peer: counted, told, and answered if it may be. Returns the verdict for it. */
static __always_inline int oversize(struct __sk_buff *skb, u32 link, const struct outgoing *out, u32 peer_index,
				    const struct clampd_peer *peer, u16 mtu)
{
	struct news news = {.peer = peer_index, .size = out->size, .mtu = mtu, .family = out->family};
	struct clampd_counters *counters = counters_of(peer_index);
	struct clampd_order order = {
		.ifindex = skb->ifindex,
		.mtu = mtu,
		.size = out->size,
		.link = link,
		.magic = CLAMPD_ORDER_MAGIC,
		.ethertype = skb->protocol,
	};
	struct clampd_config *config;
	u64 now = coarse_now();
	int verdict;
	bool sent;

	config = the_config();
	if (!counters || !config)
		return TC_ACT_UNSPEC;
	counters->oversize++;
	if (out->size > counters->largest)
		counters->largest = out->size;
	if (out->df_clear) {
		counters->oversize_df_clear++;
		news.kind = EVENT_OVERSIZE_DF_CLEAR;
		tell_of_burst(skb, link, &news, now);
		return TC_ACT_UNSPEC;
	}
	news.kind = EVENT_OVERSIZE;
	tell_of_burst(skb, link, &news, now);
	if (!(peer->flags & CLAMPD_PEER_ANSWER))
		return TC_ACT_UNSPEC;
	if (!out->answerable || skb->pkt_type == PACKET_BROADCAST || skb->pkt_type == PACKET_MULTICAST ||
	    is_icmp_error(skb, out)) {
		counters->unanswerable++;
		return TC_ACT_UNSPEC;
	}
	if (!rate_allows(skb, config, peer_index, hash_of_sender(skb, link, out), now)) {
		counters->suppressed++;
		news.kind = EVENT_SUPPRESSED;
		tell_of_burst(skb, link, &news, now);
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

static __always_inline bool are_suspects(void)
{
	struct clampd_config *config = the_config();

	return config && config->suspects && is_attended();
}

/* A large packet goes on to the peer: it is counted, and says whether the peer is in use, and in trouble. */
static __always_inline void watch_large(struct __sk_buff *skb, u32 link, const struct outgoing *out, u32 peer_index,
					u16 mtu)
{
	struct news news = {.peer = peer_index, .size = out->size, .mtu = mtu, .family = out->family};
	struct clampd_counters *counters = counters_of(peer_index);
	struct clampd_burst *burst = burst_of(peer_index);
	struct tcp_segment seg = {.peer = peer_index, .size = out->size};
	struct clampd_config *config;
	struct clampd_stall *stall;
	u64 now = coarse_now();

	config = the_config();
	if (!counters || !burst || !config)
		return;
	counters->large++;
	news.kind = EVENT_COUNT;
	if (!burst->last[EVENT_LARGE] || has_passed(burst->last[EVENT_LARGE], now, config->large_gap))
		news.kind = EVENT_LARGE;
	if (read_segment(skb, link, out, &seg) && seg.end != seg.start) {
		stall = stall_at(seg.place);
		if (stall && enter_large_segment(stall, &seg, now)) {
			counters->resent++;
			if (within(&burst->resent, CLAMPD_RESENT_RATE, now) && may_tell(EVENT_RESENT, now))
				news.kind = EVENT_RESENT; /* where both are due, the other comes with the next packet */
		}
	}
	if (news.kind == EVENT_COUNT)
		return;
	if (news.kind == EVENT_LARGE)
		burst->last[EVENT_LARGE] = now;
	tell(skb, link, &news);
}

/* While there are suspects. */
static __always_inline void watch_small(struct __sk_buff *skb, u32 link, const struct outgoing *out)
{
	struct tcp_segment seg = {};
	struct clampd_stall *stall;

	if (!read_segment(skb, link, out, &seg))
		return;
	stall = stall_at(seg.place);
	if (stall)
		enter_small_segment(stall, &seg);
}

/* Towards a peer: is the packet large, or larger than its MTU? Returns the verdict. */
static __always_inline int check_size(struct __sk_buff *skb, u32 link)
{
	struct outgoing out = {};
	struct clampd_peer *peer;
	u32 *index, peer_index;
	int verdict;
	u16 mtu;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		struct clampd_prefix4 key = {.prefixlen = 64, .ifindex = skb->ifindex};

		if (!look_at_outgoing4(skb, link, &out, &key))
			return TC_ACT_UNSPEC;
		index = find_peer4(&key);
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		struct clampd_prefix6 key = {.prefixlen = 160, .ifindex = skb->ifindex};

		if (!look_at_outgoing6(skb, link, &out, &key))
			return TC_ACT_UNSPEC;
		index = find_peer6(&key);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (!index)
		return TC_ACT_UNSPEC;
	peer_index = *index;
	peer = peer_at(peer_index);
	if (!peer || !peer->mtu)
		return TC_ACT_UNSPEC;
	mtu = peer->mtu;
	if (out.family == 6 && mtu < IPV6_MIN_MTU)
		mtu = IPV6_MIN_MTU; /* smaller values would be ignored (RFC 8201 section 4): the tunnel must fragment */
	out.size = size_on_wire(skb, link, &out);
	if (out.size <= CLAMPD_LARGE_LIMIT(peer->mtu)) {
		if (are_suspects())
			watch_small(skb, link, &out);
		return TC_ACT_UNSPEC;
	}
	if (out.size <= mtu) {
		watch_large(skb, link, &out, peer_index, mtu);
		return TC_ACT_UNSPEC;
	}
	verdict = oversize(skb, link, &out, peer_index, peer, mtu);
	if (verdict == TC_ACT_UNSPEC)
		watch_large(skb, link, &out, peer_index, mtu);
	return verdict;
}

static __always_inline bool may_be_large(struct __sk_buff *skb, u32 link)
{
	struct clampd_config *config = the_config();

	return config && (skb->len > link + config->small_packet || are_suspects());
}

/* From a peer, while there are suspects: does the packet acknowledge a large segment that was sent since? */
static __always_inline void watch_acknowledgement(struct __sk_buff *skb, u32 link)
{
	struct tcp_segment seg = {};
	struct clampd_acked *acked;
	struct clampd_stall *stall;
	struct outgoing in = {};

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		struct clampd_prefix4 key;

		if (!look_at_outgoing4(skb, link, &in, &key))
			return;
	} else {
		struct clampd_prefix6 key;

		if (skb->protocol != bpf_htons(ETHERTYPE_IPV6) || !look_at_outgoing6(skb, link, &in, &key))
			return;
	}
	if (!read_segment(skb, link, &in, &seg))
		return;
	stall = stall_at(seg.place);
	if (!stall || !is_acknowledged(stall, &seg))
		return;
	acked = acked_of(stall->peer);
	if (!acked || !acked->since || !has_passed(acked->since, stall->last, 0) || stall->size <= acked->size)
		return;
	acked->size = stall->size;
	acked->at = coarse_now();
}

static __always_inline void note_seen(struct __sk_buff *skb, enum direction direction)
{
	u32 slot = (skb->ifindex * 2 + direction) % CLAMPD_SEEN;
	u64 *seen = seen_at(slot);

	if (seen)
		(*seen)++;
}

static __always_inline int handle_ingress(struct __sk_buff *skb, u32 link)
{
	note_seen(skb, INGRESS);
	if (are_suspects())
		watch_acknowledgement(skb, link);
	return handle(skb, link, INGRESS);
}

/* bcc's own declaration (seen in 0.26) cuts the cookie to 32 bits. */
static u64 (*socket_cookie)(void *ctx) = (void *)BPF_FUNC_get_socket_cookie;

/* Whether the packet is the prober's; then it is made known to the underlay's program. */
static __always_inline bool pass_prober(struct __sk_buff *skb)
{
	u64 cookie;

	if (skb->priority != CLAMPD_PROBE_PRIORITY)
		return false;
	cookie = socket_cookie(skb);
	if (!is_prober(cookie))
		return false;
	skb->priority = 0;
	bpf_set_hash(skb, CLAMPD_PROBE_HASH);
	return true;
}

/* Sizes first: the verifier follows the few ends of that into the many paths of the other, not the reverse. */
static __always_inline int handle_egress(struct __sk_buff *skb, u32 link)
{
	int verdict;

	note_seen(skb, EGRESS);
	if (pass_prober(skb))
		return TC_ACT_UNSPEC;
	if (may_be_large(skb, link)) {
		verdict = check_size(skb, link);
		if (verdict != TC_ACT_UNSPEC)
			return verdict;
	}
	return handle(skb, link, EGRESS);
}

#endif
