/* crypto.c - c.crypto: digests, encodings of bytes, random bytes; qhost/crypto.lua makes qh.crypto
 * of it */
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include "net/secret.h"
#include "net/sha256.h"
#include "text/base_encoding.h"
#include <lauxlib.h>

enum { PIECE_BYTES = 64 << 10, MAX_RANDOM_BYTES = 1 << 20, MAX_CODED_BYTES = 8 << 20 };

/* Consumes h. */
static int digest(lua_State *L, qh_sha256 *h, const char *data, size_t len)
{
    unsigned char sum[QH_SHA256_BYTES];
    qh_steps steps = qh_steps_begin("hashing");
    bool is_over = false;
    for (size_t at = 0; at < len && !is_over; at += PIECE_BYTES) {
        qh_sha256_add(h, data + at, len - at < PIECE_BYTES ? len - at : PIECE_BYTES);
        is_over = len > PIECE_BYTES && qh_steps_are_over(L, &steps);
    }
    qh_sha256_end(h, sum);
    qh_sha256_free(h);
    if (is_over) return luaL_error(L, "hashing %I bytes takes too long", (lua_Integer)len);
    lua_pushlstring(L, (const char *)sum, sizeof sum);
    return 1;
}

/* sha256(data) -> 32 bytes */
static int sha256(lua_State *L)
{
    size_t len;
    const char *data = luaL_checklstring(L, 1, &len);
    return digest(L, qh_sha256_new(), data, len);
}

/* hmac_sha256(key, data) -> 32 bytes */
static int hmac_sha256(lua_State *L)
{
    size_t key_len, len;
    const char *key = luaL_checklstring(L, 1, &key_len), *data = luaL_checklstring(L, 2, &len);
    return digest(L, qh_sha256_new_keyed(key, key_len), data, len);
}

static qh_base_encoding encoding_at(lua_State *L, int arg)
{
    static const char *const NAMES[] = {"hex", "base64", "base64url", NULL};
    return (qh_base_encoding)luaL_checkoption(L, arg, NULL, NAMES);
}

static const char *coded_text(lua_State *L, int arg, size_t *len)
{
    const char *s = luaL_checklstring(L, arg, len);
    if (*len > MAX_CODED_BYTES)
        luaL_error(L, "%I bytes are too many to encode or decode at once; %d are allowed",
                   (lua_Integer)*len, MAX_CODED_BYTES);
    return s;
}

/* encode(how, data) -> text */
static int encode(lua_State *L)
{
    size_t len;
    qh_base_encoding how = encoding_at(L, 1);
    const char *data = coded_text(L, 2, &len);
    qh_str *out = qh_vm_scratch(L);
    qh_base_encode(out, how, data, len);
    lua_pushlstring(L, qh_str_z(out), out->len);
    return 1;
}

/* decode(how, text) -> data | nil, message, name */
static int decode(lua_State *L)
{
    size_t len;
    qh_err err = {0};
    qh_base_encoding how = encoding_at(L, 1);
    const char *text = coded_text(L, 2, &len);
    qh_str *out = qh_vm_scratch(L);
    qh_status st = qh_base_decode(out, how, text, len, &err);
    if (st) return qh_push_status(L, st, &err);
    lua_pushlstring(L, qh_str_z(out), out->len);
    return 1;
}

/* random(n_bytes) -> bytes */
static int random_bytes(lua_State *L)
{
    lua_Integer n = luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 0 && n <= MAX_RANDOM_BYTES, 1,
                  "a number of bytes up to 1 MiB is expected");
    luaL_Buffer b;
    qh_secret_random(luaL_buffinitsize(L, &b, (size_t)n), (size_t)n);
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

/* equal(a, b) -> boolean */
static int equal(lua_State *L)
{
    size_t a_len, b_len;
    const char *a = luaL_checklstring(L, 1, &a_len), *b = luaL_checklstring(L, 2, &b_len);
    lua_pushboolean(L, qh_secret_equal(a, a_len, b, b_len));
    return 1;
}

void qh_bind_crypto(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {
        {"sha256", sha256}, {"hmac_sha256", hmac_sha256}, {"encode", encode},
        {"decode", decode}, {"random", random_bytes},     {"equal", equal},
        {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "crypto");
}
