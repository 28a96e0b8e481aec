/* arena.c - see arena.h */
#include "base/arena.h"
#include "base/mem.h"
#include <stdint.h>
#include <string.h>

typedef struct block {
    struct block *prev;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
} block;

struct qh_arena {
    block *top;
    size_t used_bytes, max_bytes;
};

enum { FIRST_BLOCK_BYTES = 4096, MAX_BLOCK_BYTES = 1 << 20 };

qh_arena *qh_arena_new(size_t max_bytes)
{
    qh_arena *a = qh_new0(qh_arena);
    a->max_bytes = max_bytes ? max_bytes : SIZE_MAX / 2;
    return a;
}

void qh_arena_free(qh_arena *a)
{
    if (!a) return;
    for (block *b = a->top; b;) {
        block *prev = b->prev;
        qh_free(b);
        b = prev;
    }
    qh_free(a);
}

static block *push_block(qh_arena *a, size_t need)
{
    size_t cap = a->top ? a->top->cap * 2 : FIRST_BLOCK_BYTES;
    if (cap > MAX_BLOCK_BYTES) cap = MAX_BLOCK_BYTES;
    if (cap < need) cap = need;
    block *b = qh_try_alloc0(1, sizeof *b + cap);
    if (!b) return NULL;
    b->cap = cap;
    b->prev = a->top;
    return a->top = b;
}

void *qh_arena_alloc(qh_arena *a, size_t len_bytes)
{
    if (len_bytes > a->max_bytes - a->used_bytes) return NULL;
    size_t need = (len_bytes + 15) & ~(size_t)15;
    block *b = a->top;
    if (!b || b->cap - b->used < need) b = push_block(a, need);
    if (!b) return NULL;
    void *p = b->bytes + b->used;
    b->used += need;
    a->used_bytes += len_bytes;
    return p;
}

char *qh_arena_strndup(qh_arena *a, const char *s, size_t len_bytes)
{
    char *d = qh_arena_alloc(a, len_bytes + 1);
    if (d) memcpy(d, s, len_bytes);
    return d;
}

size_t qh_arena_used(const qh_arena *a) { return a->used_bytes; }
