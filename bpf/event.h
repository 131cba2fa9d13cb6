/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Time and limits, and what the agent is told: records of the ring buffer.
 */
#ifndef CLAMPD_EVENT_H
#define CLAMPD_EVENT_H

#include "packet.h"

#define SECOND 1000000000ULL /* ns */

/* Clocks of two CPUs may differ by a jiffy: what lies ahead is not long ago. All in boot-time ns. */
static __always_inline bool has_passed(__u64 since, __u64 now, __u64 time)
{
	return (__s64)(now - since) >= (__s64)time;
}

/* One more in this second? Two CPUs that ask at once may both get a yes: a limit, not an account. */
static __always_inline bool within(struct clampd_window *window, __u32 limit, __u64 now)
{
	if (has_passed(window->began, now, SECOND)) {
		window->began = now;
		window->answers = 0;
	}
	if (window->answers >= limit)
		return false;
	window->answers++;
	return true;
}

/* What an event says; `size` and `mtu` as in struct clampd_event. */
struct news {
	__u32 peer;
	__u32 size;
	__u16 mtu;
	__u8 kind;
	__u8 family;
	__u8 flags;
};

static __always_inline void write_event(struct clampd_event *event, struct __sk_buff *skb, __u32 link,
					const struct news *news)
{
	__u64 length = skb->len;

	if (length > CLAMPD_HEAD)
		length = CLAMPD_HEAD;
	event->peer = news->peer;
	event->ifindex = skb->ifindex;
	event->size = news->size;
	event->mtu = news->mtu;
	event->kind = news->kind;
	event->family = news->family;
	event->link = link;
	event->flags = news->flags;
	__builtin_memset(event->reserved, 0, sizeof(event->reserved));
	asm volatile("" : "+r"(length)); /* or the compiler compares something else than what it hands over */
	if (length < IPV4_HEADER || bpf_skb_load_bytes(skb, 0, event->head, length))
		length = 0;
	event->head_length = length;
}

#endif
