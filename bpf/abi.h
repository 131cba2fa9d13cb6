/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The contract between the programs (bpf/) and the agent (mssclamp.datapath.abi, which mirrors this file and
 * whose tests compare sizes and offsets). Nothing else belongs here. Padding is explicit, byte order is the
 * machine's unless a line says otherwise. Whoever changes a layout raises CLAMPD_ABI.
 */
#ifndef CLAMPD_ABI_H
#define CLAMPD_ABI_H

#define CLAMPD_ABI 2

/* Room in the arrays that are indexed by peer; the agent chooses it when it loads the programs. */
#ifndef CLAMPD_MAX_PEERS
#define CLAMPD_MAX_PEERS 1024
#endif

/* The tries allocate per entry: this is a bound, not a size. */
#define CLAMPD_MAX_PREFIXES (1 << 20)
#define CLAMPD_MAX_DEVICES 4096

/* What became of a packet that was looked at: one counter each, all devices together. */
enum clampd_reason {
	REASON_CLAMPED = 0,
	REASON_WOULD_CLAMP,
	REASON_FITS,           /* every MSS is small enough already */
	REASON_NO_MSS,         /* a SYN without the option stands for 536 or 1220: left alone */
	REASON_NO_PEER,
	REASON_CLAMP_OFF,      /* the operator wants no clamping for this peer */
	REASON_SYN_RST,
	REASON_TCP_AO,         /* RFC 5925: the digest covers the options */
	REASON_BAD_IP,
	REASON_BAD_TCP,
	REASON_BAD_OPTIONS,
	REASON_LATER_FRAGMENT, /* its "TCP header" is payload */
	REASON_EXT_HEADERS,    /* more IPv6 extension headers than we follow */
	REASON_FAILED,         /* the kernel refused a change; the packet went on unchanged */
	REASON_COUNT,
};

/* Key of the prefix tries; prefixlen counts the 32 bits of ifindex too. The value is a peer's index. */
struct clampd_prefix4 {
	__u32 prefixlen;
	__u32 ifindex;
	__u8 address[4];       /* network order */
};

struct clampd_prefix6 {
	__u32 prefixlen;
	__u32 ifindex;
	__u8 address[16];      /* network order */
};

/* Flags of a peer. */
#define CLAMPD_PEER_CLAMP 1  /* rewrite the MSS of its SYNs */
#define CLAMPD_PEER_ANSWER 2 /* answer packets over its MTU: there is evidence for the value */

#define CLAMPD_FOREVER (~0ULL)

/* What is in force for one peer. The peer is enforced while the boot-time clock (ns) is before enforce_until:
 * 0 is observe, CLAMPD_FOREVER is enforce, anything between is `clampctl enforce --for`, which thus ends by
 * itself without the daemon. */
struct clampd_peer {
	__u64 enforce_until;
	__u16 mtu;             /* bytes */
	__u16 mss4;            /* bytes, never below 536 */
	__u16 mss6;
	__u16 flags;
};

/* Per CPU and peer. */
struct clampd_counters {
	__u64 clamped;
	__u64 would_clamp;
	__u64 oversize;          /* packets (GSO: super-packets) over the peer's MTU, towards it */
	__u64 oversize_df_clear; /* of these: IPv4 without DF, let pass */
	__u64 too_big_sent;      /* turned into an ICMP answer to their sender */
	__u64 would_answer;      /* the same, in observe mode */
	__u64 suppressed;        /* not answered: over a rate limit */
	__u64 unanswerable;      /* not answered: RFC 1122 and RFC 4443 forbid it, or the kernel could not */
	__u64 largest;           /* the largest size seen, bytes; not a count */
};

/* One, at index 0: what the agent decides for all peers together. */
struct clampd_config {
	__u32 builder;           /* ifindex of the pair's first end; 0: no answers can be made */
	__u32 per_sender;        /* answers a second */
	__u32 per_peer;
	__u32 small_packet;      /* bytes: no peer that is answered for has a smaller MTU */
	__u64 flow_gap;          /* ns between two answers to one flow */
};

/* Answers in the current second, by sender (hashed) and by peer. */
struct clampd_window {
	__u64 began;             /* boot-time ns */
	__u32 answers;
	__u32 reserved;
};

/* Direct-mapped: who shares a place shares its limit. */
#define CLAMPD_FLOWS 4096
#define CLAMPD_SENDERS 1024

/* In the ring buffer: the first of its kind for a peer after a second without. */
enum clampd_event_kind {
	EVENT_OVERSIZE = 0,
	EVENT_OVERSIZE_DF_CLEAR, /* IPv4 without DF: let pass */
	EVENT_SUPPRESSED,        /* over a rate limit */
	EVENT_COUNT,
};

struct clampd_event {
	__u32 peer;
	__u32 ifindex;
	__u32 size;              /* bytes */
	__u16 mtu;               /* in force, bytes */
	__u8 kind;
	__u8 family;             /* 4 or 6 */
};

/* When an event of each kind last was due, boot-time ns. */
struct clampd_burst {
	__u64 last[EVENT_COUNT];
};

/* Packets that the programs on a device have seen, at 2 * (its ifindex modulo half of this), + 1 for egress: tells a
 * device whose packets go past the hooks. */
#define CLAMPD_SEEN 512

/* How the program on the device tells the builder at the pair's other end what to make: in the place of the two
 * addresses of the Ethernet header that it puts before the packet. */
struct clampd_order {
	__u32 ifindex;           /* where the answer comes in */
	__u16 mtu;               /* what it says */
	__u16 size;              /* of the packet that it is about, headers included: goes into the quote */
	__u16 link;              /* length of that packet's own link header, which follows this one */
	__u16 magic;
	__be16 ethertype;
} __attribute__((packed));

#define CLAMPD_ORDER_MAGIC 0xc1a3

/* One per device that carries our filters: what the next daemon, or `clampctl detach`, must know. */
struct clampd_device {
	__u32 qdisc_is_ours;   /* we created clsact here, so we may take it away */
	__u32 reserved;
};

/* One, at index 0: which programs these are. */
struct clampd_meta {
	__u32 abi;
	__u32 max_peers;
	__u8 build[32];        /* SHA-256 of the sources */
};

#endif
