/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * From a packet to its TCP segment: where it starts, where it ends, what its flags are.
 * Reads only; every read is bounds-checked, and what does not parse has a named reason.
 */
#ifndef CLAMPD_PACKET_H
#define CLAMPD_PACKET_H

#include "abi.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define TC_ACT_UNSPEC (-1)

#define ETHERNET_HEADER 14
#define NO_LINK_HEADER 0

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd

#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define PROTOCOL_TCP 6

/* IPv6 extension headers that stand between the IP header and TCP (RFC 8200 section 4) */
#define HEADER_HOP_BY_HOP 0
#define HEADER_ROUTING 43
#define HEADER_FRAGMENT 44
#define HEADER_DESTINATION 60
#define MAX_EXTENSION_HEADERS 8

#define TCP_HEADER 20
#define TCP_MAX_OPTIONS 40
#define TCP_CHECKSUM 16 /* offset in the header */
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04

/* "Not a SYN": nothing to do and nothing to count. */
#define NOT_OURS (-1)

enum direction { INGRESS, EGRESS };

/* Offsets are from the start of the packet, link header included. */
struct segment {
	__u32 tcp;             /* where the TCP header starts */
	__u32 ip_end;          /* where the IP packet says that it ends */
	__u16 tcp_header;      /* length by the data offset, bytes; not yet checked */
};

/* Volatile, so that the compiler keeps each load whole: the verifier refuses arithmetic on half a pointer. */
static __always_inline void *packet(struct __sk_buff *skb)
{
	return (void *)(long)*(volatile __u32 *)&skb->data;
}

static __always_inline void *packet_end(struct __sk_buff *skb)
{
	return (void *)(long)*(volatile __u32 *)&skb->data_end;
}

/* Whole words: from bytes the compiler, who knows nothing of alignment, would make sixteen loads of an address. */
static __always_inline __u16 be16_at(const __u8 *at)
{
	return bpf_ntohs(*(const __u16 *)at); /* returns host order */
}

static __always_inline void copy_words(__u8 *to, const __u8 *from, int words)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < words; i++)
		((__u32 *)to)[i] = ((const __u32 *)from)[i];
}

/* In place where that can be, which is the rule and saves the helper's time. Returns false if the packet ends before. */
static __always_inline bool load_words(struct __sk_buff *skb, __u32 at, __u32 *to, int words)
{
	__u8 *from;

	if (at > 0x7fff)
		return false; /* for the verifier */
	from = packet(skb) + at;
	if ((void *)(from + words * 4) > packet_end(skb))
		return !bpf_skb_load_bytes(skb, at, to, words * 4);
	copy_words((__u8 *)to, from, words);
	return true;
}

/* Makes the first `need` bytes readable in place. Some drivers leave even headers outside the linear part;
 * pulling them in does not change the packet. */
static __always_inline bool head_is_readable(struct __sk_buff *skb, __u32 need)
{
	if (packet(skb) + need <= packet_end(skb))
		return true;
	return skb->len >= need && !bpf_skb_pull_data(skb, need);
}

/* Looks at the flags, the part that every TCP packet pays for. Returns NOT_OURS, a reason to leave the
 * packet alone, or 0 = REASON_CLAMPED, "a SYN to go on with": then, and only then, seg->tcp_header is set. */
static __always_inline int look_for_syn(struct __sk_buff *skb, struct segment *seg)
{
	__u8 *tcp = packet(skb) + seg->tcp;
	__u8 offset_and_flags[2];

	if ((void *)(tcp + 14) <= packet_end(skb)) {
		offset_and_flags[0] = tcp[12];
		offset_and_flags[1] = tcp[13];
	} else if (bpf_skb_load_bytes(skb, seg->tcp + 12, offset_and_flags, 2)) {
		return REASON_BAD_TCP;
	}
	if (!(offset_and_flags[1] & TCP_FLAG_SYN))
		return NOT_OURS;
	if (offset_and_flags[1] & TCP_FLAG_RST)
		return REASON_SYN_RST;
	seg->tcp_header = (offset_and_flags[0] >> 4) * 4;
	return REASON_CLAMPED;
}

/* Returns as look_for_syn(); on 0 all of *seg and the address key are set. */
static __always_inline int find_syn4(struct __sk_buff *skb, __u32 link, enum direction direction,
				     struct segment *seg, struct clampd_prefix4 *key)
{
	__u8 *ip;
	int found;

	if (!head_is_readable(skb, link + IPV4_HEADER))
		return REASON_BAD_IP;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV4_HEADER) > packet_end(skb))
		return REASON_FAILED; /* cannot be: for the verifier */
	if (ip[0] < 0x45 || ip[0] > 0x4f)
		return REASON_BAD_IP;
	if (ip[9] != PROTOCOL_TCP)
		return NOT_OURS;
	if (be16_at(ip + 6) & 0x1fff)
		return REASON_LATER_FRAGMENT;
	seg->tcp = link + (ip[0] & 0x0f) * 4;
	found = look_for_syn(skb, seg);
	if (found)
		return found;
	/* look_for_syn() may not have moved the packet: it only reads */
	seg->ip_end = link + be16_at(ip + 2);
	copy_words(key->address, ip + (direction == EGRESS ? 16 : 12), 1);
	return REASON_CLAMPED;
}

static __always_inline bool is_extension(__u8 header)
{
	return header == HEADER_HOP_BY_HOP || header == HEADER_ROUTING || header == HEADER_DESTINATION ||
	       header == HEADER_FRAGMENT;
}

/* The chain of extension headers; rare, so by helper. *next is the first header's type on entry, the upper
 * layer's on success. Returns 0, or a reason to leave the packet alone. */
static __always_inline int skip_extension_headers(struct __sk_buff *skb, __u32 *at, __u8 *next, bool *fragment)
{
	__u8 header[8];

	if (!is_extension(*next))
		return 0;
	/* The end of the loop is a conditional jump: before 6.8 the verifier refuses one that is fallen into. */
#pragma clang loop unroll(disable)
	for (int left = MAX_EXTENSION_HEADERS; left; left--) {
		if (bpf_skb_load_bytes(skb, *at, header, sizeof(header)))
			return REASON_BAD_IP;
		if (*next == HEADER_FRAGMENT) {
			if (be16_at(header + 2) & 0xfff9) /* an offset, or more to come */
				*fragment = true;
			if (be16_at(header + 2) & 0xfff8)
				return REASON_LATER_FRAGMENT;
			*at += 8;
		} else {
			*at += ((__u32)header[1] + 1) * 8;
		}
		*next = header[0];
		if (!is_extension(*next))
			return 0;
	}
	return REASON_EXT_HEADERS;
}

/* Returns as look_for_syn(); on 0 all of *seg and the address key are set. */
static __always_inline int find_syn6(struct __sk_buff *skb, __u32 link, enum direction direction,
				     struct segment *seg, struct clampd_prefix6 *key)
{
	__u8 *ip, next;
	bool fragment;
	int found;

	if (!head_is_readable(skb, link + IPV6_HEADER))
		return REASON_BAD_IP;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV6_HEADER) > packet_end(skb))
		return REASON_FAILED; /* cannot be: for the verifier */
	if (ip[0] >> 4 != 6)
		return REASON_BAD_IP;
	next = ip[6];
	seg->tcp = link + IPV6_HEADER;
	if (next != PROTOCOL_TCP) {
		found = skip_extension_headers(skb, &seg->tcp, &next, &fragment);
		if (found)
			return found;
		if (next != PROTOCOL_TCP)
			return NOT_OURS;
	}
	if (seg->tcp > 0xffff)
		return REASON_BAD_IP; /* cannot be with 8 headers: a bound for the verifier */
	found = look_for_syn(skb, seg);
	if (found)
		return found;
	seg->ip_end = link + IPV6_HEADER + be16_at(ip + 4);
	copy_words(key->address, ip + (direction == EGRESS ? 24 : 8), 4);
	return REASON_CLAMPED;
}

#endif
