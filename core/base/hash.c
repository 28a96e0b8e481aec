/* hash.c - eight bytes a round through a 64x64->128 multiply, folded; see hash.h */
#include "base/hash.h"
#include <string.h>

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint64_t qh_hash_bytes(const void *data, size_t len_bytes, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t h = seed ^ 0x9e3779b97f4a7c15u, v;
    for (size_t n = len_bytes; n >= 8; n -= 8, p += 8) {
        memcpy(&v, p, 8);
        h = fold(h ^ v, 0xa0761d6478bd642fu) + 0xe7037ed1a0b428dbu;
    }
    v = 0;
    memcpy(&v, p, len_bytes & 7);
    return qh_hash_mix(fold(h ^ v, 0x8ebc6af09c88c6e3u) ^ len_bytes);
}
