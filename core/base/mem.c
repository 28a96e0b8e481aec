/* mem.c - see mem.h */
#include "base/mem.h"
#include "base/err.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE_BYTES = 2 << 20 };

static _Noreturn void out_of_memory(size_t len_bytes)
{
    fprintf(stderr, "qhost: out of memory, %zu bytes wanted\n", len_bytes);
    abort();
}

void *qh_alloc0(size_t len_bytes)
{
    void *p = calloc(1, len_bytes ? len_bytes : 1);
    if (!p) out_of_memory(len_bytes);
    return p;
}

void *qh_realloc(void *p, size_t len_bytes)
{
    void *q = realloc(p, len_bytes ? len_bytes : 1);
    if (!q) out_of_memory(len_bytes);
    return q;
}

char *qh_strndup(const char *s, size_t len_bytes)
{
    char *d = qh_alloc0(len_bytes + 1);
    memcpy(d, s, len_bytes);
    return d;
}

char *qh_strdup(const char *s) { return qh_strndup(s, strlen(s)); }

void *qh_try_alloc0(size_t n, size_t size_bytes)
{
    return calloc(n ? n : 1, size_bytes ? size_bytes : 1);
}

void *qh_try_realloc(void *p, size_t n, size_t size_bytes)
{
    size_t len;
    if (__builtin_mul_overflow(n, size_bytes, &len)) return NULL;
    return realloc(p, len ? len : 1);
}

void qh_free(void *p) { free(p); }

/* The mapping is rounded up to whole huge pages when it is large enough to gain from them, and
 * starts on a huge-page boundary: an unaligned head would keep its first 2 MB in small pages. */
static size_t mapped_bytes(size_t len_bytes)
{
    size_t unit = len_bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 4096;
    return (len_bytes + unit - 1) / unit * unit;
}

void *qh_pages_alloc(size_t len_bytes)
{
    if (len_bytes == 0) len_bytes = 1;
    if (len_bytes > SIZE_MAX / 2) return NULL;
    size_t len = mapped_bytes(len_bytes);
    size_t slack = len_bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    char *p = mmap(NULL, len + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (!slack) return p;
    char *start = (char *)(((uintptr_t)p + HUGE_PAGE_BYTES - 1) & ~(uintptr_t)(HUGE_PAGE_BYTES - 1));
    size_t head = (size_t)(start - p), tail = slack - head;
    if (head) munmap(p, head);
    if (tail) munmap(start + len, tail);
    madvise(start, len, MADV_HUGEPAGE);
    return start;
}

void qh_pages_free(void *p, size_t len_bytes)
{
    if (p) munmap(p, mapped_bytes(len_bytes ? len_bytes : 1));
}
