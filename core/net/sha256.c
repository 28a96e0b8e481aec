/* sha256.c - see sha256.h */
#include "net/sha256.h"
#include "base/err.h"
#include "base/mem.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

struct qh_sha256 {
    EVP_MD_CTX *ctx;
};

/* EVP calls fail only without memory or on misuse. */
qh_sha256 *qh_sha256_new(void)
{
    qh_sha256 *h = qh_new0(qh_sha256);
    h->ctx = EVP_MD_CTX_new();
    qh_assert(h->ctx != NULL);
    qh_sha256_restart(h);
    return h;
}

void qh_sha256_free(qh_sha256 *h)
{
    if (!h) return;
    EVP_MD_CTX_free(h->ctx);
    qh_free(h);
}

void qh_sha256_restart(qh_sha256 *h) { qh_assert(EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) == 1); }

void qh_sha256_add(qh_sha256 *h, const void *data, size_t len_bytes)
{
    qh_assert(EVP_DigestUpdate(h->ctx, data, len_bytes) == 1);
}

void qh_sha256_hex(qh_sha256 *h, char out[QH_SHA256_HEX_BYTES])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    qh_assert(EVP_DigestFinal_ex(h->ctx, sum, &n) == 1 && n == 32);
    for (unsigned i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

bool qh_sha256_is_hex(const char *s) { return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64; }
