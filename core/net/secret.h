/* secret.h - bytes that nobody can guess, and comparing without telling how far it went. Thread:
 * any. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Whether two texts are equal, in a time that depends on their lengths only. */
bool qh_secret_equal(const void *a, size_t a_len_bytes, const void *b, size_t b_len_bytes);
void qh_secret_random(void *out, size_t len_bytes);
