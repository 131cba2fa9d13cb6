/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the programs on the underlay's devices do: see that probes leave whole, note what proves that a router saw our
 * packets, and take ICMP about them. Part of clampd.c, which has the maps.
 */
#ifndef CLAMPD_UNDERLAY_H
#define CLAMPD_UNDERLAY_H

#include "event.h"
#include "outer.h"

static __always_inline bool is_near(u32 index)
{
	return near_bits_at(index / 64) >> index % 64 & 1;
}

/* The endpoint that a packet, or what is quoted of one, goes to. */
static __always_inline struct clampd_endpoint *find_endpoint(struct clampd_endpoint_key *key)
{
	struct clampd_endpoint *endpoint = endpoint_of(key);

	if (endpoint || !key->port)
		return endpoint;
	key->port = 0;
	return endpoint_of(key);
}

/* A probe has to leave whole, or it proves nothing. User packets are left as they are: a path that fragments and works
 * goes on working. So too a super-packet that ends in a probe. */
static __always_inline void keep_probe_whole(struct __sk_buff *skb, u32 link, const struct outer *out, u16 flags)
{
	struct clampd_length_key key = {.endpoint = out->to, .length = out->length};
	struct clampd_length *length = length_of(&key);
	bool df_clear = out->df_clear, probe = skb->hash == CLAMPD_PROBE_HASH;

	if (probe || (length && flags & CLAMPD_ENDPOINT_BY_LENGTH)) {
		if (df_clear && (!(probe || flags & CLAMPD_ENDPOINT_SET_DF) || !set_df(skb, link)))
			return;
		df_clear = false;
		if (length)
			__sync_fetch_and_add(&length->whole, out->segments);
	}
	if (!out->rest || df_clear || !(flags & CLAMPD_ENDPOINT_BY_LENGTH))
		return;
	key.length = out->rest;
	length = length_of(&key);
	if (length)
		__sync_fetch_and_add(&length->whole, 1);
}

static __always_inline int underlay_egress(struct __sk_buff *skb, u32 link)
{
	struct data_message message;
	struct outer out = {};
	struct clampd_endpoint *endpoint;
	u32 index;

	/* What is forwarded is others': no tunnel of this machine made it, and it must prove nothing about any. */
	if (!read_near_index(skb, link, &index) || !is_near(index) || skb->ingress_ifindex ||
	    !read_outer(skb, link, &out))
		return TC_ACT_UNSPEC;
	endpoint = find_endpoint(&out.to);
	if (!endpoint)
		return TC_ACT_UNSPEC;
	if (read_data_message(skb, &out, &message))
		keep_counter(skb, endpoint, &message);
	if (out.fragment)
		__sync_fetch_and_add(&endpoint->fragments, 1);
	else if (endpoint->flags & CLAMPD_ENDPOINT_PROBING && is_attended())
		keep_probe_whole(skb, link, &out, endpoint->flags);
	return TC_ACT_UNSPEC;
}

/* ICMP about our outer packets is the agent's to judge. Where it is enforced the stack never sees it: what anybody can
 * forge must not lower the kernel's own path MTU. While the agent is away the stack is all there is to heed it. */
static __always_inline int underlay_ingress(struct __sk_buff *skb, u32 link)
{
	struct news news = {.kind = EVENT_UNDERLAY_ICMP};
	struct data_message message;
	struct outer out = {};
	struct clampd_endpoint *endpoint;
	u64 now;

	if (!read_too_big(skb, link, &out, &news.size))
		return TC_ACT_UNSPEC;
	endpoint = find_endpoint(&out.to);
	if (!endpoint || (endpoint->source && endpoint->source != out.source))
		return TC_ACT_UNSPEC;
	now = coarse_now();
	if (has_passed(endpoint->told, now, SECOND / CLAMPD_ICMP_RATE) && may_tell(EVENT_UNDERLAY_ICMP, now)) {
		endpoint->told = now;
		if (read_data_message(skb, &out, &message) && is_fresh(endpoint, &message))
			news.flags = CLAMPD_EVENT_SEEN;
		news.peer = endpoint->peer;
		news.mtu = out.length;
		news.family = out.to.family;
		tell(skb, link, &news);
	}
	return endpoint->flags & CLAMPD_ENDPOINT_TAKE_ICMP && is_attended() ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#endif
