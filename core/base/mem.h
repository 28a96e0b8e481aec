/* mem.h - host memory: small things abort when memory is gone, sized things return NULL.
 *
 * "Sized" means sized by a request, a model or a config: those use qh_try_*, and the caller
 * returns QH_ENOMEM. Thread: any. */
#pragma once
#include <stddef.h>

#define qh_new0(T) ((T *)qh_alloc0(sizeof(T)))

void *qh_alloc0(size_t len_bytes);                   /* zeroed; never NULL */
void *qh_realloc(void *p, size_t len_bytes);         /* never NULL */
char *qh_strdup(const char *s);                      /* never NULL; s must not be NULL */
char *qh_strndup(const char *s, size_t len_bytes);   /* copies len_bytes and adds a NUL */
void *qh_try_alloc0(size_t n, size_t size_bytes);    /* n*size checked; NULL on overflow or no memory */
void *qh_try_realloc(void *p, size_t n, size_t size_bytes); /* on NULL p is still owned by the caller */
void  qh_free(void *p);                              /* NULL is fine; not for pages */

/* Page-aligned zeroed memory for weights and KV, huge pages asked for. NULL when not to be had. */
void *qh_pages_alloc(size_t len_bytes);
void  qh_pages_free(void *p, size_t len_bytes);      /* NULL is fine */
