/* piecemap.c - see piecemap.h */
#include "text/piecemap.h"
#include "base/hash.h"
#include "base/mem.h"
#include <string.h>

qh_status qh_piecemap_init(qh_piecemap *m, const qh_slices *slices, int max_entries)
{
    size_t n = 16;
    while (n < 2 * (size_t)max_entries) n *= 2;
    *m = (qh_piecemap){.slices = slices, .mask = n - 1};
    m->slots = qh_try_alloc0(n, sizeof *m->slots);
    return m->slots ? QH_OK : QH_ENOMEM;
}

void qh_piecemap_deinit(qh_piecemap *m)
{
    qh_free(m->slots);
    *m = (qh_piecemap){0};
}

/* The slot that holds these bytes, or the free one where they would go. */
static uint64_t *slot_of(const qh_piecemap *m, const char *data, size_t len, uint64_t hash)
{
    for (size_t i = hash & m->mask;; i = (i + 1) & m->mask) {
        uint64_t *s = &m->slots[i];
        if (!*s) return s;
        if (*s >> 32 != hash >> 32) continue;
        uint32_t id = (uint32_t)*s - 1, at = m->slices->at[id];
        if (m->slices->at[id + 1] - at == len && memcmp(m->slices->blob + at, data, len) == 0)
            return s;
    }
}

int32_t qh_piecemap_put(qh_piecemap *m, int32_t id)
{
    uint32_t at = m->slices->at[id];
    size_t len = m->slices->at[id + 1] - at;
    const char *data = m->slices->blob + at;
    uint64_t hash = qh_hash_bytes(data, len, 0);
    uint64_t *s = slot_of(m, data, len, hash);
    if (!*s) *s = (hash >> 32 << 32) | ((uint32_t)id + 1);
    return (int32_t)((uint32_t)*s - 1);
}

int32_t qh_piecemap_find(const qh_piecemap *m, const char *data, size_t len)
{
    uint64_t *s = slot_of(m, data, len, qh_hash_bytes(data, len, 0));
    return *s ? (int32_t)((uint32_t)*s - 1) : -1;
}
