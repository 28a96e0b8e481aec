/* hash.h - 64-bit non-cryptographic hashing for tables and chained keys.
 *
 * Not safe against chosen collisions: whoever looks something up compares the key itself too. */
#pragma once
#include <stddef.h>
#include <stdint.h>

uint64_t qh_hash_bytes(const void *data, size_t len_bytes, uint64_t seed);

/* Finalizer of splitmix64 (Steele et al., OOPSLA 2014): a bijection that mixes all 64 bits. */
static inline uint64_t qh_hash_mix(uint64_t x)
{
    x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27, x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
