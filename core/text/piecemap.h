/* piecemap.h - from bytes to a token id: an open-addressing table over slices stored elsewhere.
 *
 * slots: 0 is free, else (upper half of the hash) << 32 | id + 1, so that most misses are seen
 * without touching the bytes. At most half full. Thread: any after the last put. */
#pragma once
#include "base/err.h"

typedef struct { /* n slices in one block: slice i is blob[at[i]] .. blob[at[i + 1]] */
    char *blob;
    uint32_t *at; /* [n + 1] */
} qh_slices;

typedef struct {
    const qh_slices *slices; /* borrowed */
    uint64_t *slots;
    size_t mask; /* slots - 1 */
} qh_piecemap;

qh_status qh_piecemap_init(qh_piecemap *m, const qh_slices *slices, int max_entries);
void qh_piecemap_deinit(qh_piecemap *m); /* zeroed is fine */
/* Returns id, or the id that already has these bytes. */
int32_t qh_piecemap_put(qh_piecemap *m, int32_t id);
int32_t qh_piecemap_find(const qh_piecemap *m, const char *data, size_t len); /* -1: none */
