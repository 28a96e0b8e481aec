/* secret.c - see secret.h */
#include "net/secret.h"
#include "base/err.h"
#include <openssl/crypto.h>
#include <openssl/rand.h>

bool qh_secret_equal(const void *a, size_t a_len_bytes, const void *b, size_t b_len_bytes)
{
    return a_len_bytes == b_len_bytes && CRYPTO_memcmp(a, b, a_len_bytes) == 0;
}

void qh_secret_random(void *out, size_t len_bytes)
{
    qh_assert(RAND_bytes(out, (int)len_bytes) == 1); /* fails only without a source of the system */
}
