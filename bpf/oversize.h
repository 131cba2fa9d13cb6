/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * How large a packet will be when it leaves, and whether its sender may be told. Reads only.
 */
#ifndef CLAMPD_OVERSIZE_H
#define CLAMPD_OVERSIZE_H

#include "packet.h"

#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMPV6 58

#define IPV6_MIN_MTU 1280

/* What an answer quotes of the packet: all headers that Linux and others look at, and some payload. With the largest
 * headers the answer has 304 bytes, well under the 576 of RFC 1122 and RFC 4443. */
#define QUOTE 256

/* Of the upper layer, senders need the ports and TCP's sequence number in the quote, or ignore the answer. */
#define QUOTED_TRANSPORT 8

/* RFC 2675: a hop-by-hop header with nothing but the jumbo payload option. */
#define JUMBO_HEADER 8

#define PACKET_BROADCAST 1
#define PACKET_MULTICAST 2

/* A packet on its way to a peer, as far as its size matters. Offsets from the start of the packet. */
struct outgoing {
	__u32 transport;       /* where the upper layer's header starts */
	__u32 size;            /* bytes of the largest IP packet that it becomes on the wire */
	__u8 protocol;
	__u8 family;           /* 4 or 6 */
	__u8 shed;             /* bytes of headers that the segments of a super-packet will not have */
	bool df_clear;         /* IPv4 that may be fragmented */
	bool has_transport;    /* no later fragment, no headers that we cannot follow */
	bool answerable;
};

/* A GSO super-packet leaves as segments: headers + gso_size each. Returns 0 where we cannot tell. */
static __always_inline __u32 size_on_wire(struct __sk_buff *skb, __u32 link, const struct outgoing *out)
{
	__u32 whole = skb->len - link, segment = out->transport - link - out->shed + skb->gso_size;
	__u8 offset;

	if (!skb->gso_size)
		return whole;
	if (out->protocol == PROTOCOL_UDP) {
		segment += 8;
	} else {
		if (out->protocol != PROTOCOL_TCP || bpf_skb_load_bytes(skb, out->transport + 12, &offset, 1))
			return 0;
		segment += (offset >> 4) * 4;
	}
	return segment < whole ? segment : whole;
}

/* ICMP errors are never answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). */
static __always_inline bool is_icmp_error(struct __sk_buff *skb, const struct outgoing *out)
{
	__u8 type;

	if (out->protocol != (out->family == 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6))
		return false;
	if (bpf_skb_load_bytes(skb, out->transport, &type, 1))
		return true;
	if (out->family == 6)
		return type < 128 || type == 137; /* errors, redirect */
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static __always_inline bool is_group_address4(const __u8 *address)
{
	return address[0] >= 224; /* multicast, reserved, broadcast */
}

/* "This host", loopback, groups: nobody whom an answer could reach. */
static __always_inline bool is_no_sender4(const __u8 *address)
{
	return address[0] == 0 || address[0] == 127 || is_group_address4(address);
}

static __always_inline bool is_no_sender6(const __u8 *address)
{
	const __u32 *word = (const __u32 *)address;

	if (address[0] == 0xff)
		return true;
	return !(word[0] | word[1] | word[2] | (word[3] & ~bpf_htonl(1))); /* unspecified, loopback */
}

/* Returns false if the packet is none whose size is our business. On true *out and the address key are set. */
static __always_inline bool look_at_outgoing4(struct __sk_buff *skb, __u32 link, struct outgoing *out,
					      struct clampd_prefix4 *key)
{
	__u16 fragment;
	__u8 *ip;

	if (!head_is_readable(skb, link + IPV4_HEADER))
		return false;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV4_HEADER) > packet_end(skb) || ip[0] < 0x45 || ip[0] > 0x4f)
		return false;
	fragment = be16_at(ip + 6);
	out->transport = link + (ip[0] & 0x0f) * 4;
	out->protocol = ip[9];
	out->family = 4;
	out->df_clear = !(fragment & 0x4000);
	out->has_transport = !(fragment & 0x1fff);
	out->answerable = out->has_transport && !is_no_sender4(ip + 12) && !is_group_address4(ip + 16);
	copy_words(key->address, ip + 16, 1);
	return true;
}

static __always_inline bool look_at_outgoing6(struct __sk_buff *skb, __u32 link, struct outgoing *out,
					      struct clampd_prefix6 *key)
{
	bool fragment;
	__u8 *ip;

	if (!head_is_readable(skb, link + IPV6_HEADER))
		return false;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV6_HEADER) > packet_end(skb) || ip[0] >> 4 != 6)
		return false;
	out->transport = link + IPV6_HEADER;
	out->protocol = ip[6];
	out->family = 6;
	out->df_clear = false;
	out->has_transport = true;
	out->answerable = !is_no_sender6(ip + 8) && ip[24] != 0xff;
	copy_words(key->address, ip + 24, 4);
	if (out->protocol == PROTOCOL_TCP || out->protocol == PROTOCOL_UDP || out->protocol == PROTOCOL_ICMPV6)
		return true;
	/* Linux puts a jumbo payload option into IPv6 super-packets over 64 KiB, and takes it out of their segments. */
	if (skb->gso_size && out->protocol == HEADER_HOP_BY_HOP && !be16_at(ip + 4))
		out->shed = JUMBO_HEADER;
	/* A later fragment, a chain that we cannot follow or cannot quote: its size still counts, but nobody is told. */
	if (skip_extension_headers(skb, &out->transport, &out->protocol, &fragment))
		out->has_transport = false;
	if (!out->has_transport || out->transport > link + QUOTE - QUOTED_TRANSPORT)
		out->answerable = false;
	return out->transport <= 0xffff;
}

#endif
