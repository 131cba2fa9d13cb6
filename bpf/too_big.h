/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * An oversize packet becomes the ICMP answer to its sender, in two steps. Step one, on the device's egress: cut the
 * packet down to what the answer quotes and send it, with an order in front, through a private veth pair. Step two, at
 * the pair's other end: build the answer around it and let it come in where the packet wanted to go out.
 *
 * Why the detour: a local or GRO'd packet has its checksum still to be filled in, and stays so marked whatever a program
 * makes of it; a host that forwards the answer would fill a "TCP checksum" into the quote, and the ICMP checksum would
 * be wrong. The pair's transmit side has no checksum offload, so the mark is gone when step two sees the packet.
 */
#ifndef CLAMPD_TOO_BIG_H
#define CLAMPD_TOO_BIG_H

#include "oversize.h"

#define BPF_F_INGRESS_ (1ULL << 0)
#define TC_ACT_SHOT 2

#define ICMP_HEADER 8
#define HOP_LIMIT 64
#define TOS_INTERNETWORK_CONTROL 0xc0 /* as the kernel's own ICMP errors */

#define ICMP_DESTINATION_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMPV6_PACKET_TOO_BIG 2

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u32 mix(__u32 hash, __u32 word)
{
	hash = (hash ^ word) * 0x9e3779b1;
	return hash ^ hash >> 15;
}

/* 0 where the packet cannot be read again, which cannot be. */
static __always_inline __u32 hash_of_sender(struct __sk_buff *skb, __u32 link, const struct outgoing *out)
{
	__u32 words[4] = {};

	if (out->family == 4) {
		bpf_skb_load_bytes(skb, link + 12, words, 4);
		return mix(0, words[0]);
	}
	bpf_skb_load_bytes(skb, link + 8, words, 16);
	return mix(mix(mix(mix(0, words[0]), words[1]), words[2]), words[3]);
}

/* Step one. Returns the verdict for the packet; *sent says whether the answer is on its way. On failure before the first
 * change the packet goes on as it came. */
static __always_inline int order_answer(struct __sk_buff *skb, __u32 builder, struct clampd_order *order,
					bool *sent)
{
	*sent = false;
	if (bpf_skb_change_tail(skb, order->link + QUOTE, 0))
		return TC_ACT_UNSPEC;
	/* From here on only the answer is left of it. */
	if (bpf_skb_change_head(skb, ETHERNET_HEADER, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, order, ETHERNET_HEADER, 0))
		return TC_ACT_SHOT;
	skb->mark = 0; /* it survives a redirect, and policy routing would judge the answer by it */
	*sent = true;
	return bpf_redirect(builder, 0);
}

/* The quote says the size of one packet, also where it was a super-packet. */
static __always_inline void quote_size4(__u8 *quote, __u16 size)
{
	__u16 old = *(__u16 *)(quote + 2), new = bpf_htons(size);
	__u16 check = *(__u16 *)(quote + 10);

	*(__u16 *)(quote + 2) = new;
	*(__u16 *)(quote + 10) = fold((__u32)(__u16)~check + (__u16)~old + new);
}

/* Step two. The frame: order, the packet's own link header if it had one, QUOTE bytes of the packet. */
static __always_inline int build_answer(struct __sk_buff *skb)
{
	struct clampd_order order;
	__u8 *frame, *ip, *icmp, *quote, link_addresses[12] = {};
	bool ipv6 = skb->protocol == bpf_htons(ETHERTYPE_IPV6);
	__u32 ip_header = ipv6 ? IPV6_HEADER : IPV4_HEADER;
	__u32 answer = ETHERNET_HEADER + ip_header + ICMP_HEADER + QUOTE;
	__u32 sum;

	if (bpf_skb_load_bytes(skb, 0, &order, sizeof(order)) || order.magic != CLAMPD_ORDER_MAGIC)
		return TC_ACT_SHOT; /* the stack's own chatter on the pair */
	if (order.link != NO_LINK_HEADER && order.link != ETHERNET_HEADER)
		return TC_ACT_SHOT;
	if (order.link == ETHERNET_HEADER && bpf_skb_load_bytes(skb, ETHERNET_HEADER, link_addresses, 12))
		return TC_ACT_SHOT;
	if (bpf_skb_adjust_room(skb, ip_header + ICMP_HEADER - order.link, BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;
	if (skb->len < answer || bpf_skb_pull_data(skb, answer))
		return TC_ACT_SHOT;
	frame = packet(skb);
	if (ipv6) {
		if ((void *)(frame + ETHERNET_HEADER + IPV6_HEADER + ICMP_HEADER + QUOTE) > packet_end(skb))
			return TC_ACT_SHOT;
		ip = frame + ETHERNET_HEADER;
		icmp = ip + IPV6_HEADER;
		quote = icmp + ICMP_HEADER;
		*(__u16 *)(quote + 4) = bpf_htons(order.size - IPV6_HEADER);
		*(__u32 *)ip = bpf_htonl(6 << 28);
		*(__u16 *)(ip + 4) = bpf_htons(ICMP_HEADER + QUOTE);
		ip[6] = PROTOCOL_ICMPV6;
		ip[7] = HOP_LIMIT;
		/* From whom the packet wanted to go to: that always routes back through the device. */
		__builtin_memcpy(ip + 8, quote + 24, 16);
		__builtin_memcpy(ip + 24, quote + 8, 16);
		*(__u32 *)icmp = 0;
		icmp[0] = ICMPV6_PACKET_TOO_BIG;
		*(__u32 *)(icmp + 4) = bpf_htonl(order.mtu);
		/* The pseudo header of RFC 8200 section 8.1. */
		sum = bpf_csum_diff(0, 0, (__be32 *)(ip + 8), 32, bpf_htonl(ICMP_HEADER + QUOTE));
		sum = bpf_csum_diff(0, 0, (__be32 *)icmp, ICMP_HEADER + QUOTE, sum);
		sum = (sum & 0xffff) + (sum >> 16);
		*(__u16 *)(icmp + 2) = fold(sum + bpf_htons(PROTOCOL_ICMPV6));
	} else {
		if ((void *)(frame + ETHERNET_HEADER + IPV4_HEADER + ICMP_HEADER + QUOTE) > packet_end(skb))
			return TC_ACT_SHOT;
		ip = frame + ETHERNET_HEADER;
		icmp = ip + IPV4_HEADER;
		quote = icmp + ICMP_HEADER;
		quote_size4(quote, order.size);
		ip[0] = 0x45;
		ip[1] = TOS_INTERNETWORK_CONTROL;
		*(__u16 *)(ip + 2) = bpf_htons(IPV4_HEADER + ICMP_HEADER + QUOTE);
		*(__u32 *)(ip + 4) = 0;
		ip[8] = HOP_LIMIT;
		ip[9] = PROTOCOL_ICMP;
		*(__u16 *)(ip + 10) = 0;
		__builtin_memcpy(ip + 12, quote + 16, 4);
		__builtin_memcpy(ip + 16, quote + 12, 4);
		*(__u16 *)(ip + 10) = fold(bpf_csum_diff(0, 0, (__be32 *)ip, IPV4_HEADER, 0));
		*(__u32 *)icmp = 0;
		icmp[0] = ICMP_DESTINATION_UNREACHABLE;
		icmp[1] = ICMP_FRAGMENTATION_NEEDED;
		*(__u32 *)(icmp + 4) = bpf_htonl(order.mtu); /* RFC 1191 section 4: in the low 16 bits */
		*(__u16 *)(icmp + 2) = fold(bpf_csum_diff(0, 0, (__be32 *)icmp, ICMP_HEADER + QUOTE, 0));
	}
	/* A device with link header takes the frame as one that came from the next hop; the others drop this header. */
	__builtin_memcpy(frame, link_addresses + 6, 6);
	__builtin_memcpy(frame + 6, link_addresses, 6);
	return bpf_redirect(order.ifindex, BPF_F_INGRESS_);
}

#endif
