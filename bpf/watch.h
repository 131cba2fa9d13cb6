/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Large TCP segments on their way to a peer, and those that are sent again after a silence: the symptom of a path that
 * has become smaller and does not say so. Needs no acknowledgements, so it works for flows whose other direction goes
 * elsewhere. Reads only.
 */
#ifndef CLAMPD_WATCH_H
#define CLAMPD_WATCH_H

#include "event.h"
#include "oversize.h"

/* RFC 7323 section 2.3: no window is larger, so what starts further below the end is of another connection. */
#define TCP_MAX_WINDOW (1U << 30)

/* A TCP segment, or a super-packet of several. */
struct tcp_segment {
	__u32 place;           /* where its flow's clampd_stall is: both directions have the same */
	__u32 tag;             /* whose it is: the directions differ in the last bit */
	__u32 start;           /* sequence numbers */
	__u32 end;
	__u32 acknowledged;
	__u32 peer;            /* to whom it goes; the reader does not set this one and the next */
	__u32 size;            /* on the wire */
};

static __always_inline __u64 stir(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* Returns false if there is no TCP segment to be read. */
static __always_inline bool read_segment(struct __sk_buff *skb, __u32 link, const struct outgoing *out,
					 struct tcp_segment *seg)
{
	__u64 from = skb->ifindex, to = skb->ifindex;
	__u32 at = out->transport;
	__u16 from_port, to_port;
	__u8 *ip, *tcp;

	if (out->protocol != PROTOCOL_TCP || !out->has_transport || !head_is_readable(skb, at + TCP_HEADER))
		return false;
	tcp = packet(skb) + at;
	if ((void *)(tcp + TCP_HEADER) > packet_end(skb))
		return false; /* cannot be: for the verifier */
	from_port = *(__u16 *)tcp;
	to_port = *(__u16 *)(tcp + 2);
	seg->start = bpf_ntohl(*(__u32 *)(tcp + 4));
	seg->acknowledged = bpf_ntohl(*(__u32 *)(tcp + 8));
	at += (tcp[12] >> 4) * 4;
	ip = packet(skb) + link;
	if (out->family == 4) {
		if ((void *)(ip + IPV4_HEADER) > packet_end(skb))
			return false;
		from = stir(from, (__u64)*(__u32 *)(ip + 12) << 16 | from_port);
		to = stir(to, (__u64)*(__u32 *)(ip + 16) << 16 | to_port);
	} else {
		if ((void *)(ip + IPV6_HEADER) > packet_end(skb))
			return false;
		from = stir(stir(stir(from, *(__u64 *)(ip + 8)), *(__u64 *)(ip + 16)), from_port);
		to = stir(stir(stir(to, *(__u64 *)(ip + 24)), *(__u64 *)(ip + 32)), to_port);
	}
	seg->place = (from + to) % CLAMPD_STALLS;
	seg->tag = ((from + to) >> 32 & ~1ULL) | (from < to) | 2;
	seg->end = seg->start + skb->len - at;
	return skb->len >= at;
}

static __always_inline bool is_resent(const struct clampd_stall *stall, const struct tcp_segment *seg)
{
	return stall->end - seg->start - 1 < TCP_MAX_WINDOW;
}

/* Enters the segment at its flow's place, if that is free. Returns whether it is sent again after a silence.
 * Two CPUs that work on one flow at once may mix their entries: then a hint is missed, or one too many comes. */
static __always_inline bool enter_large_segment(struct clampd_stall *stall, const struct tcp_segment *seg, __u64 now)
{
	bool silent = has_passed(stall->last, now, CLAMPD_STALL_SILENCE);

	if (stall->tag == seg->tag && is_resent(stall, seg)) {
		stall->last = now;
		if ((__s32)(seg->end - stall->end) > 0)
			stall->end = seg->end;
		if (seg->size < stall->size)
			stall->size = seg->size;
		return silent;
	}
	if (stall->tag && stall->tag != seg->tag && !has_passed(stall->last, now, CLAMPD_STALL_HELD))
		return false;
	/* New data, a new connection, or a new flow. */
	stall->tag = seg->tag;
	stall->end = seg->end;
	stall->last = now;
	stall->peer = seg->peer;
	stall->size = seg->size;
	return false;
}

/* A small segment: where it carries again what a large one did, the acknowledgement will say nothing about large ones. */
static __always_inline void enter_small_segment(struct clampd_stall *stall, const struct tcp_segment *seg)
{
	if (stall->tag == seg->tag && seg->end != seg->start && is_resent(stall, seg))
		stall->size = 0;
}

/* Whether a segment of the other direction acknowledges all that large ones carried. */
static __always_inline bool is_acknowledged(const struct clampd_stall *stall, const struct tcp_segment *seg)
{
	return stall->tag == (seg->tag ^ 1) && seg->acknowledged - stall->end < TCP_MAX_WINDOW;
}

#endif
