/* sha256.h - SHA-256 of bytes that come in pieces (FIPS 180-4, done by OpenSSL). Thread: any. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum { QH_SHA256_HEX_BYTES = 65 };              /* with NUL */

typedef struct qh_sha256 qh_sha256;
qh_sha256 *qh_sha256_new(void);
void       qh_sha256_free(qh_sha256 *h);        /* NULL is fine */
void       qh_sha256_restart(qh_sha256 *h);     /* as new */
void       qh_sha256_add(qh_sha256 *h, const void *data, size_t len_bytes);
/* In lower case. Restart before adding more. */
void       qh_sha256_hex(qh_sha256 *h, char out[QH_SHA256_HEX_BYTES]);
bool       qh_sha256_is_hex(const char *s);     /* 64 hex digits in either case */
