/* sha256.c - see sha256.h */
#include "net/sha256.h"
#include "base/err.h"
#include "base/mem.h"
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <string.h>

struct qh_sha256 {
    EVP_MD_CTX *sum;            /* one of the two */
    EVP_MAC_CTX *mac;
};

/* EVP calls fail only without memory or on misuse. */
qh_sha256 *qh_sha256_new(void)
{
    qh_sha256 *h = qh_new0(qh_sha256);
    h->sum = EVP_MD_CTX_new();
    qh_assert(h->sum != NULL);
    qh_sha256_restart(h);
    return h;
}

qh_sha256 *qh_sha256_new_keyed(const void *key, size_t len_bytes)
{
    static const unsigned char EMPTY_KEY = 0;   /* NULL would mean: the key of before */
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    qh_sha256 *h = qh_new0(qh_sha256);
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    h->mac = EVP_MAC_CTX_new(hmac);
    EVP_MAC_free(hmac);
    qh_assert(h->mac && EVP_MAC_init(h->mac, len_bytes ? key : &EMPTY_KEY, len_bytes, params) == 1);
    return h;
}

void qh_sha256_free(qh_sha256 *h)
{
    if (!h) return;
    EVP_MD_CTX_free(h->sum);
    EVP_MAC_CTX_free(h->mac);
    qh_free(h);
}

void qh_sha256_restart(qh_sha256 *h)
{
    qh_assert((h->mac ? EVP_MAC_init(h->mac, NULL, 0, NULL)
                      : EVP_DigestInit_ex(h->sum, EVP_sha256(), NULL)) == 1);
}

void qh_sha256_add(qh_sha256 *h, const void *data, size_t len_bytes)
{
    qh_assert((h->mac ? EVP_MAC_update(h->mac, data, len_bytes)
                      : EVP_DigestUpdate(h->sum, data, len_bytes)) == 1);
}

void qh_sha256_end(qh_sha256 *h, unsigned char out[QH_SHA256_BYTES])
{
    size_t len = 0;
    qh_assert((h->mac ? EVP_MAC_final(h->mac, out, &len, QH_SHA256_BYTES)
                      : EVP_DigestFinal_ex(h->sum, out, NULL)) == 1);
}

void qh_sha256_hex(qh_sha256 *h, char out[QH_SHA256_HEX_BYTES])
{
    unsigned char sum[QH_SHA256_BYTES];
    qh_sha256_end(h, sum);
    for (int i = 0; i < QH_SHA256_BYTES; i++) snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

bool qh_sha256_is_hex(const char *s) { return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64; }
