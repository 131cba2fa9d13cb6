/* Fixed-width types, as the kernel spells them. */
#ifndef CLAMPD_SHIM_LINUX_TYPES_H
#define CLAMPD_SHIM_LINUX_TYPES_H

typedef __UINT8_TYPE__ __u8, u8;
typedef __UINT16_TYPE__ __u16, u16;
typedef __UINT32_TYPE__ __u32, u32;
typedef unsigned long long __u64, u64;
typedef __INT8_TYPE__ __s8, s8;
typedef __INT16_TYPE__ __s16, s16;
typedef __INT32_TYPE__ __s32, s32;
typedef long long __s64, s64;
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;
typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef int pid_t;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

#endif
