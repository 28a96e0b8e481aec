/* utf8.h - well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates, nothing
 * above U+10FFFF. Thread: any. */
#pragma once
#include <stddef.h>

/* Bytes of the character at p, 1 to 4; 0 when the bytes there are not a whole well-formed
 * character. */
int qh_utf8_len(const char *p, size_t n);

/* How many bytes at p begin some well-formed character without being a whole one ("maximal
 * subpart"); 0 when a whole character stands there or no character starts like that. */
int qh_utf8_partial(const char *p, size_t n);

/* Length of the longest well-formed run that begins at p. */
size_t qh_utf8_span(const char *p, size_t n);
