/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The contract between the programs (bpf/) and the agent (mssclamp.datapath.abi, which mirrors this file and
 * whose tests compare sizes and offsets). Nothing else belongs here. Padding is explicit, byte order is the
 * machine's unless a line says otherwise. Whoever changes a layout raises CLAMPD_ABI.
 */
#ifndef CLAMPD_ABI_H
#define CLAMPD_ABI_H

#define CLAMPD_ABI 3

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
	__u64 large;             /* packets (GSO: super-packets) over CLAMPD_LARGE_LIMIT that went on towards it */
	__u64 resent;            /* of these: TCP segments sent again after their flow was silent */
	__u64 largest;           /* the largest size seen, bytes; not a count */
};

/* One, at index 0: what the agent decides for all peers together. */
struct clampd_config {
	__u32 builder;           /* ifindex of the pair's first end; 0: no answers can be made */
	__u32 per_sender;        /* answers a second */
	__u32 per_peer;
	__u32 small_packet;      /* bytes: up to here no size is looked at. No peer's limit of large is below it */
	__u64 flow_gap;          /* ns between two answers to one flow */
	__u64 large_gap;         /* ns between two EVENT_LARGE of one peer */
	__u32 suspects;          /* peers whose value is in doubt: while there are any, acknowledgements are looked at */
	__u32 reserved;
	__u64 attended_until;    /* boot-time ns: after that the agent is gone, and what needs it is not done */
};

/* Larger packets show whether a peer's MTU is right, so traffic of smaller ones is no reason to check it. */
#define CLAMPD_LARGE_AT_MOST 1200
#define CLAMPD_LARGE_LIMIT(mtu) \
	((mtu) - (mtu) / 8 < CLAMPD_LARGE_AT_MOST ? (mtu) - (mtu) / 8 : CLAMPD_LARGE_AT_MOST)

/* The prober's packets pass its own device unjudged. Its sockets bear this priority, and their cookies are keys of
 * clampd_prober; packets that do leave with priority 0 and this hash, which tunnels in the kernel keep on the outer
 * packet: so the underlay's program knows it again. */
#define CLAMPD_PROBE_PRIORITY 0xc1a30000
#define CLAMPD_PROBE_HASH 0xc1a3c1a3
#define CLAMPD_PROBERS 256

/* Answers in the current second, by sender (hashed) and by peer. */
struct clampd_window {
	__u64 began;             /* boot-time ns */
	__u32 answers;
	__u32 reserved;
};

/* Direct-mapped: who shares a place shares its limit. */
#define CLAMPD_FLOWS 4096
#define CLAMPD_SENDERS 1024

/* In the ring buffer. */
enum clampd_event_kind {
	EVENT_OVERSIZE = 0,      /* this and the next two: the first for a peer after a second without */
	EVENT_OVERSIZE_DF_CLEAR, /* IPv4 without DF: let pass */
	EVENT_SUPPRESSED,        /* over a rate limit */
	EVENT_LARGE,             /* a large packet: once in large_gap for a peer */
	EVENT_RESENT,            /* a large TCP segment, sent again: CLAMPD_RESENT_RATE a second for a peer */
	EVENT_UNDERLAY_ICMP,     /* "too big" about an outer packet: CLAMPD_ICMP_RATE a second for an endpoint */
	EVENT_COUNT,
};

#define CLAMPD_RESENT_RATE 100
#define CLAMPD_ICMP_RATE 10

/* Of the last two kinds each, for all peers together: what is told costs the agent time. */
#define CLAMPD_TOLD_RATE 1000

#define CLAMPD_HEAD 96

/* The ICMP message's quote shows a WireGuard data message that we did send lately: its sender saw the packet. */
#define CLAMPD_EVENT_SEEN 1

struct clampd_event {
	__u32 peer;
	__u32 ifindex;
	__u32 size;              /* of the packet on the wire, bytes; UNDERLAY_ICMP: the MTU that the message names */
	__u16 mtu;               /* in force, bytes; UNDERLAY_ICMP: length of the quoted outer packet */
	__u8 kind;
	__u8 family;             /* 4 or 6 */
	__u16 link;              /* length of the link header that the head begins with */
	__u16 head_length;
	__u8 flags;
	__u8 reserved[3];
	__u8 head[CLAMPD_HEAD];  /* the packet's first bytes, as far as it has them */
};

/* When an event of each kind last was due, boot-time ns. */
struct clampd_burst {
	__u64 last[EVENT_COUNT];
	struct clampd_window resent;
};

/* Direct-mapped: the large TCP segments of a flow. A flow takes another's place once that was silent for this long. */
#define CLAMPD_STALLS 8192
#define CLAMPD_STALL_HELD 3000000000ULL /* ns */
#define CLAMPD_STALL_SILENCE 150000000ULL /* ns without a large segment: what then starts below the end is sent again */

struct clampd_stall {
	__u32 tag;               /* of the flow and its direction; 0: nobody's */
	__u32 end;               /* the highest sequence number sent, + 1 */
	__u64 last;              /* boot-time ns of the last large segment */
	__u32 peer;
	__u32 size;              /* of the smallest segment that carried what is below the end, on the wire; 0: not known */
};

/* One per peer: large segments that arrived, for their end was acknowledged. */
struct clampd_acked {
	__u64 since;             /* only those sent after this boot-time ns count; 0: none. The agent writes it */
	__u64 at;                /* boot-time ns of the acknowledgement */
	__u32 size;              /* of the largest, on the wire, bytes */
	__u32 reserved;
};

/* Per CPU: the time as it was when a program first asked in this jiffy. Reading the clock costs more than all the rest
 * that is done for a large packet, and no limit here needs milliseconds. */
struct clampd_clock {
	__u64 jiffies;
	__u64 now;               /* boot-time ns */
};

/* Who sends and gets outer packets: the remote end of a tunnel. Also what the quote of an ICMP message is known by. */
struct clampd_endpoint_key {
	__u8 address[16];        /* network order; IPv4: the first 4, the rest 0 */
	__be16 port;             /* 0: a protocol without ports, or any port */
	__u8 protocol;
	__u8 family;             /* 4 or 6 */
};

#define CLAMPD_ENDPOINT_TAKE_ICMP 1    /* "too big" about its packets is taken out of the stack */
#define CLAMPD_ENDPOINT_PROBING 2      /* lengths of outer packets are under probe: see clampd_length */
#define CLAMPD_ENDPOINT_BY_LENGTH 4    /* a user-space tunnel: probes are known by their length alone */
#define CLAMPD_ENDPOINT_SET_DF 8       /* also on what is known so; on the prober's own packets it is set anyway */

struct clampd_endpoint {
	__u32 peer;
	__u16 flags;
	__be16 source;           /* our port of the tunnel, which a quote must show; 0: not known */
	/* From here on the programs write. */
	__u32 receiver;          /* of the last WireGuard data message to it: receiver index */
	__u32 fragments;         /* packets to it that left this machine in fragments */
	__u64 counter;           /* the highest of that receiver */
	__u64 told;              /* boot-time ns of the last EVENT_UNDERLAY_ICMP */
};

#define CLAMPD_ENDPOINTS 65536

/* A quoted counter at most so far behind the last one is fresh. */
#define CLAMPD_FRESH 65536

/* A length of outer IP packets to an endpoint that is under probe; the agent puts it in and takes it out. */
struct clampd_length_key {
	struct clampd_endpoint_key endpoint;
	__u16 length;
	__u16 reserved;
};

struct clampd_length {
	__u32 whole;             /* probes of this length that left this machine in one piece, with DF (or IPv6) */
	__u32 reserved;
};

#define CLAMPD_LENGTHS 16384

/* A set of bits: those of all endpoints' addresses (clampd_near_index). A packet to another address is foreign, and
 * nothing more is looked at. */
#define CLAMPD_NEAR 65536

static inline __attribute__((always_inline)) __u32 clampd_near_index(const __u32 *address, int words)
{
	__u32 hash = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < words; i++)
		hash = (hash ^ address[i]) * 0x9e3779b1; /* words as they lie in memory */
	return hash >> 16;
}

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
