/* carve.h - pieces of one allocation, each on a cache line of its own.
 *
 * The same code lays out memory twice: over no memory to learn the size, then over the real thing.
 * So what is planned is what is used. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *base;                  /* NULL: only count */
    size_t len_bytes;               /* taken so far */
} qh_carver;

enum { QH_CARVE_ALIGN = 64 };

static inline void *qh_carve(qh_carver *c, size_t len_bytes)
{
    void *p = c->base ? c->base + c->len_bytes : NULL;
    c->len_bytes += (len_bytes + QH_CARVE_ALIGN - 1) / QH_CARVE_ALIGN * QH_CARVE_ALIGN;
    return p;
}
static inline float *qh_carve_floats(qh_carver *c, int64_t n)
{
    return qh_carve(c, (size_t)n * sizeof(float));
}
