/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Outer packets on the underlay: what a tunnel sends to its remote end, and the ICMP messages about it. Reads only,
 * but for DF on outer packets that are probes.
 */
#ifndef CLAMPD_OUTER_H
#define CLAMPD_OUTER_H

#include "too_big.h"

#define UDP_HEADER 8
#define DONT_FRAGMENT 0x4000

/* The head of a WireGuard data message: type and three zeros, receiver index, counter (8 bytes); all little-endian. */
#define WIREGUARD_DATA 4

struct data_message {
	__u32 receiver;
	__u64 counter;
};

static __always_inline __u32 le32(__u32 word)
{
	return __builtin_bswap32(bpf_htonl(word));
}

/* An outer packet, or the quote of one. */
struct outer {
	struct clampd_endpoint_key to;
	__be16 source;         /* port; 0 where the protocol has none */
	__u16 length;          /* bytes of the IP packet; 0 where we cannot tell */
	__u16 rest;            /* the same of a super-packet's last segment, if that is shorter; else 0 */
	__u32 segments;        /* that are `length` long */
	__u32 transport;       /* offset in the packet at hand */
	bool fragment;
	bool df_clear;         /* IPv4 that may be fragmented */
};

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == PROTOCOL_UDP || protocol == PROTOCOL_TCP;
}

/* The bit among the near ones that an outer packet's destination has. Returns false if there is no IP header. */
static __always_inline bool read_near_index(struct __sk_buff *skb, __u32 link, __u32 *index)
{
	__u8 *ip;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		if (!head_is_readable(skb, link + IPV4_HEADER))
			return false;
		ip = packet(skb) + link;
		if ((void *)(ip + IPV4_HEADER) > packet_end(skb) || ip[0] < 0x45 || ip[0] > 0x4f)
			return false;
		*index = clampd_near_index((__u32 *)(ip + 16), 1);
		return true;
	}
	if (skb->protocol != bpf_htons(ETHERTYPE_IPV6) || !head_is_readable(skb, link + IPV6_HEADER))
		return false;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV6_HEADER) > packet_end(skb) || ip[0] >> 4 != 6)
		return false;
	*index = clampd_near_index((__u32 *)(ip + 24), 4);
	return true;
}

/* A GSO super-packet of UDP leaves as segments; of others we do not know the headers. */
static __always_inline void note_lengths(struct __sk_buff *skb, __u32 link, struct outer *out, __u16 whole)
{
	__u32 headers = out->transport - link + UDP_HEADER, payload = skb->len - link - headers;

	if (!skb->gso_size) {
		out->length = whole;
		out->segments = 1;
	} else if (out->to.protocol == PROTOCOL_UDP) {
		out->length = headers + skb->gso_size;
		out->segments = payload / skb->gso_size;
		if (payload % skb->gso_size)
			out->rest = headers + payload % skb->gso_size;
	}
}

static __always_inline bool read_ports(struct __sk_buff *skb, struct outer *out)
{
	union {
		__u32 word;
		__be16 ports[2];
	} head;

	if (!has_ports(out->to.protocol))
		return true;
	if (!load_words(skb, out->transport, &head.word, 1))
		return false;
	out->source = head.ports[0];
	out->to.port = head.ports[1];
	return true;
}

static __always_inline bool read_outer4(struct __sk_buff *skb, __u32 link, struct outer *out)
{
	__u8 *ip = packet(skb) + link;
	__u16 fragment;

	if ((void *)(ip + IPV4_HEADER) > packet_end(skb))
		return false;
	fragment = be16_at(ip + 6);
	copy_words(out->to.address, ip + 16, 1);
	out->to.protocol = ip[9];
	out->to.family = 4;
	out->transport = link + (ip[0] & 0x0f) * 4;
	note_lengths(skb, link, out, be16_at(ip + 2));
	out->fragment = fragment & 0x3fff;
	out->df_clear = !(fragment & DONT_FRAGMENT);
	return !(fragment & 0x1fff) && read_ports(skb, out);
}

static __always_inline bool read_outer6(struct __sk_buff *skb, __u32 link, struct outer *out)
{
	__u8 *ip = packet(skb) + link;

	if ((void *)(ip + IPV6_HEADER) > packet_end(skb))
		return false;
	copy_words(out->to.address, ip + 24, 4);
	out->to.protocol = ip[6];
	out->to.family = 6;
	out->transport = link + IPV6_HEADER;
	if (skip_extension_headers(skb, &out->transport, &out->to.protocol, &out->fragment))
		return false;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV6_HEADER) > packet_end(skb))
		return false;
	note_lengths(skb, link, out, IPV6_HEADER + be16_at(ip + 4));
	return read_ports(skb, out);
}

/* Returns false if the packet is none that could be an endpoint's. *out is all zero on entry. Of a packet in fragments
 * the first has the ports, and counts for all of them. */
static __always_inline bool read_outer(struct __sk_buff *skb, __u32 link, struct outer *out)
{
	return skb->protocol == bpf_htons(ETHERTYPE_IPV4) ? read_outer4(skb, link, out) : read_outer6(skb, link, out);
}

/* Returns false if what the UDP header at out->transport precedes is no data message, or not all of its head is there. */
static __always_inline bool read_data_message(struct __sk_buff *skb, const struct outer *out,
					      struct data_message *message)
{
	__u32 head[4];

	if (out->to.protocol != PROTOCOL_UDP || !load_words(skb, out->transport + UDP_HEADER, head, 4) ||
	    le32(head[0]) != WIREGUARD_DATA)
		return false;
	message->receiver = le32(head[1]);
	message->counter = (__u64)le32(head[3]) << 32 | le32(head[2]);
	return true;
}

/* Keeps what proves, in a quote, that its sender saw our packets. */
static __always_inline void keep_counter(struct __sk_buff *skb, struct clampd_endpoint *endpoint,
					 const struct data_message *message)
{
	__u64 counter = message->counter;

	if (skb->gso_segs)
		counter += skb->gso_segs - 1; /* the head is the first segment's */
	if (endpoint->receiver == message->receiver && counter < endpoint->counter)
		return; /* another CPU was faster */
	endpoint->receiver = message->receiver;
	endpoint->counter = counter;
}

static __always_inline bool is_fresh(const struct clampd_endpoint *endpoint, const struct data_message *message)
{
	return endpoint->receiver && endpoint->receiver == message->receiver &&
	       endpoint->counter - message->counter < CLAMPD_FRESH;
}

/* Returns whether the packet leaves with DF, and thus whole or not at all. */
static __always_inline bool set_df(struct __sk_buff *skb, __u32 link)
{
	__be16 old, new;

	if (bpf_skb_load_bytes(skb, link + 6, &old, sizeof(old)))
		return false;
	new = old | bpf_htons(DONT_FRAGMENT);
	/* The checksum first: if the kernel cannot make the header writable it says so here, with nothing done. */
	if (bpf_l3_csum_replace(skb, link + 10, old, new, sizeof(new)))
		return false;
	if (bpf_skb_store_bytes(skb, link + 6, &new, sizeof(new), 0)) {
		bpf_l3_csum_replace(skb, link + 10, new, old, sizeof(new));
		return false;
	}
	return true;
}

/* RFC 1191 section 4. */
static __always_inline bool read_too_big4(struct __sk_buff *skb, __u32 link, struct outer *out, __u32 *mtu)
{
	__u8 message[ICMP_HEADER + IPV4_HEADER], *quote = message + ICMP_HEADER, *ip;
	__u32 at;

	if (!head_is_readable(skb, link + IPV4_HEADER))
		return false;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV4_HEADER) > packet_end(skb) || ip[9] != PROTOCOL_ICMP)
		return false;
	if (ip[0] < 0x45 || ip[0] > 0x4f || be16_at(ip + 6) & 0x3fff)
		return false;
	at = link + (ip[0] & 0x0f) * 4;
	if (bpf_skb_load_bytes(skb, at, message, sizeof(message)))
		return false;
	if (message[0] != ICMP_DESTINATION_UNREACHABLE || message[1] != ICMP_FRAGMENTATION_NEEDED)
		return false;
	*mtu = be16_at(message + 6);
	if (quote[0] < 0x45 || quote[0] > 0x4f || be16_at(quote + 6) & 0x1fff)
		return false;
	copy_words(out->to.address, quote + 16, 1);
	out->to.protocol = quote[9];
	out->to.family = 4;
	out->length = be16_at(quote + 2);
	out->transport = at + ICMP_HEADER + (quote[0] & 0x0f) * 4;
	return read_ports(skb, out);
}

/* RFC 4443 section 3.2. With extension headers, before the message or in the quote, it is left alone. */
static __always_inline bool read_too_big6(struct __sk_buff *skb, __u32 link, struct outer *out, __u32 *mtu)
{
	__u8 message[ICMP_HEADER + IPV6_HEADER], *quote = message + ICMP_HEADER, *ip;
	__u32 length;

	if (!head_is_readable(skb, link + IPV6_HEADER))
		return false;
	ip = packet(skb) + link;
	if ((void *)(ip + IPV6_HEADER) > packet_end(skb) || ip[6] != PROTOCOL_ICMPV6 || ip[0] >> 4 != 6)
		return false;
	if (bpf_skb_load_bytes(skb, link + IPV6_HEADER, message, sizeof(message)))
		return false;
	if (message[0] != ICMPV6_PACKET_TOO_BIG || quote[0] >> 4 != 6)
		return false;
	*mtu = bpf_ntohl(*(__be32 *)(message + 4));
	copy_words(out->to.address, quote + 24, 4);
	out->to.protocol = quote[6];
	out->to.family = 6;
	length = IPV6_HEADER + be16_at(quote + 4);
	out->length = length < 0xffff ? length : 0xffff;
	out->transport = link + IPV6_HEADER + ICMP_HEADER + IPV6_HEADER;
	return read_ports(skb, out);
}

/* "Too big". On true *out, all zero before, is what the message is about, and *mtu what it names. */
static __always_inline bool read_too_big(struct __sk_buff *skb, __u32 link, struct outer *out, __u32 *mtu)
{
	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4))
		return read_too_big4(skb, link, out, mtu);
	return skb->protocol == bpf_htons(ETHERTYPE_IPV6) && read_too_big6(skb, link, out, mtu);
}

#endif
