/* arena.h - memory that dies together: one arena per request.
 *
 * Blocks grow by doubling; nothing is freed alone. Thread: one owner at a time, no locks. */
#pragma once
#include <stddef.h>

typedef struct qh_arena qh_arena;

qh_arena *qh_arena_new(size_t max_bytes);            /* 0: no limit */
void      qh_arena_free(qh_arena *a);                /* NULL is fine */
void     *qh_arena_alloc(qh_arena *a, size_t len_bytes); /* zeroed, 16-byte aligned; NULL: over max_bytes */
char     *qh_arena_strndup(qh_arena *a, const char *s, size_t len_bytes);
size_t    qh_arena_used(const qh_arena *a);          /* bytes handed out */
