/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The rewrite of the MSS option in one SYN. All or nothing: the options are copied, checked to their end and
 * lowered in the copy; only then one store and one checksum update touch the packet.
 */
#ifndef CLAMPD_TCP_MSS_H
#define CLAMPD_TCP_MSS_H

#include "packet.h"

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_AO 29
#define OPTION_MSS_LENGTH 4

/* Room for an index that the verifier knows only as "masked": 40 bytes of options, the rest zero. */
#define OPTIONS_ROOM 64
#define OPTION_AT(i) ((i) & (OPTIONS_ROOM - 1))

enum seen { SEEN_MSS = 1, SEEN_AO = 2, SEEN_TOO_LARGE = 4 };

/* The one's complement difference that replacing a 16-bit value makes in the checksum (RFC 1624, equation 3).
 * Values are as they lie in memory. At an odd offset the value's bytes belong to two words of the sum, each in
 * the other half: the same difference with its bytes swapped. */
static __always_inline __u32 checksum_difference(__u16 from, __u16 to, bool odd)
{
	if (odd) {
		from = __builtin_bswap16(from);
		to = __builtin_bswap16(to);
	}
	return (__u32)(__u16)~from + to;
}

/* Says once more, right before a helper is called, what is known: Linux 6.1 forgets the bounds of what lay on the stack,
 * and understands them one by one only. */
static __always_inline bool bound_again(__u64 *length)
{
	asm volatile("" : "+r"(*length));
	if (*length > TCP_MAX_OPTIONS)
		return false;
	asm volatile("" : "+r"(*length));
	return *length >= 4;
}

/* Copies the options; word by word where they can be read in place, which is the rule and saves half of the helper's
 * time. Returns false if the kernel cannot give them. */
static __always_inline bool copy_options(struct __sk_buff *skb, __u32 at, __u64 length, __u8 *options)
{
	__u32 *word = packet(skb) + at;
	__u32 *copy = (__u32 *)options;

#pragma clang loop unroll(disable)
	for (__u64 i = 0; i < TCP_MAX_OPTIONS / 4; i++, word++) {
		/* Counted up to the end where the verifier sees it, not to an end worked out beforehand. */
		asm volatile("" : "+r"(i));
		if (i * 4 >= length)
			return true;
		if ((void *)(word + 1) > packet_end(skb)) {
			if (!bound_again(&length))
				return false;
			return !bpf_skb_load_bytes(skb, at, options, length);
		}
		copy[i] = *word;
	}
	return true;
}

/* Lowers every MSS above `limit` (host order, bytes). Changes the packet only if `enforce`. Returns what became of it. */
static __always_inline int lower_mss(struct __sk_buff *skb, const struct segment *seg, __u16 limit, bool enforce)
{
	__u8 options[OPTIONS_ROOM] __attribute__((aligned(8))) = {};
	__u32 difference = 0;
	__u64 length;
	/* Volatile single bytes: of these the verifier keeps no value, so that one more turn of the loop is no new
	 * state to it. In registers, 40 turns times every path through them are more than it will follow. */
	volatile __u8 next = 0, seen = 0;

	if (seg->ip_end > skb->len || seg->ip_end < seg->tcp)
		return REASON_BAD_IP;
	if (seg->tcp_header < TCP_HEADER || seg->tcp + seg->tcp_header > seg->ip_end)
		return REASON_BAD_TCP;
	length = seg->tcp_header - TCP_HEADER;
	if (length == 0)
		return REASON_NO_MSS;
	if (length > TCP_MAX_OPTIONS)
		return REASON_FAILED; /* cannot be: a bound for the verifier */
	if (!copy_options(skb, seg->tcp + TCP_HEADER, length, options))
		return REASON_FAILED;

#pragma clang loop unroll(disable)
	for (int i = 0; i < TCP_MAX_OPTIONS; i++) {
		__u32 at = next;
		__u8 kind, size;

		if (at >= length)
			break;
		kind = options[OPTION_AT(at)];
		if (kind == OPTION_END)
			break;
		if (kind == OPTION_NOP) {
			next = at + 1;
			continue;
		}
		if (at + 1 >= length)
			return REASON_BAD_OPTIONS;
		size = options[OPTION_AT(at + 1)];
		if (size < 2 || at + size > length)
			return REASON_BAD_OPTIONS;
		if (kind == OPTION_MSS) {
			__u16 mss;

			if (size != OPTION_MSS_LENGTH)
				return REASON_BAD_OPTIONS;
			seen |= SEEN_MSS;
			mss = (__u16)options[OPTION_AT(at + 2)] << 8 | options[OPTION_AT(at + 3)];
			if (mss > limit) {
				seen |= SEEN_TOO_LARGE;
				options[OPTION_AT(at + 2)] = limit >> 8;
				options[OPTION_AT(at + 3)] = limit & 0xff;
				difference += checksum_difference(bpf_htons(mss), bpf_htons(limit), at & 1);
			}
		} else if (kind == OPTION_AO) {
			seen |= SEEN_AO;
		}
		next = at + size;
	}
	if (seen & SEEN_AO)
		return REASON_TCP_AO;
	if (!(seen & SEEN_MSS))
		return REASON_NO_MSS;
	if (!(seen & SEEN_TOO_LARGE))
		return REASON_FITS;
	if (!enforce)
		return REASON_WOULD_CLAMP;

	/* The checksum first: if the kernel cannot make the header writable it says so here, with nothing done. */
	if (bpf_l4_csum_replace(skb, seg->tcp + TCP_CHECKSUM, 0, difference, 0))
		return REASON_FAILED;
	if (!bound_again(&length) || bpf_skb_store_bytes(skb, seg->tcp + TCP_HEADER, options, length, 0)) {
		bpf_l4_csum_replace(skb, seg->tcp + TCP_CHECKSUM, 0, ~difference, 0);
		return REASON_FAILED;
	}
	return REASON_CLAMPED;
}

#endif
