/* sha256.h - SHA-256 of bytes that come in pieces (FIPS 180-4), and with a key HMAC-SHA-256 (RFC 2104); both
 * done by OpenSSL. Thread: any. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum { QH_SHA256_BYTES = 32, QH_SHA256_HEX_BYTES = 65 };        /* hex with NUL */

typedef struct qh_sha256 qh_sha256;
qh_sha256 *qh_sha256_new(void);
qh_sha256 *qh_sha256_new_keyed(const void *key, size_t len_bytes);      /* HMAC */
void       qh_sha256_free(qh_sha256 *h);        /* NULL is fine */
void       qh_sha256_restart(qh_sha256 *h);     /* as new */
void       qh_sha256_add(qh_sha256 *h, const void *data, size_t len_bytes);
/* Restart before adding more. */
void       qh_sha256_end(qh_sha256 *h, unsigned char out[QH_SHA256_BYTES]);
/* The same in lower case. */
void       qh_sha256_hex(qh_sha256 *h, char out[QH_SHA256_HEX_BYTES]);
bool       qh_sha256_is_hex(const char *s);     /* 64 hex digits in either case */
