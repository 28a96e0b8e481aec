/* json_fuzz.c - request bodies that nobody would write: JSON into Lua values and back.
 *
 * Properties: decoding ends well or with a place; what jansson takes, we take; what we took
 * comes back from the encoder as JSON that jansson takes and that decodes to the same text
 * again; and a value read into jansson and pushed back encodes the same. */
#include "lua/bind/bind.h"
#include "lua/vm/convert.h"
#include "lua/vm/state.h"
#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "violated at line %d: %s\n", __LINE__, #cond);                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lua_State *L;

static void open_vm(void)
{
    static qh_vm *vm;
    qh_err err = {0};
    qh_vm_opts opts = {.bind = qh_bind_base};
    REQUIRE(!qh_vm_new(&vm, &opts, &err));
    L = qh_vm_lua(vm);
}

/* jansson refuses NUL bytes in keys, and nesting has limits on both sides. */
static bool is_deep(const char *text, size_t len)
{
    int depth = 0, most = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '[' || text[i] == '{') depth++;
        if (text[i] == ']' || text[i] == '}') depth--;
        if (depth > most) most = depth;
    }
    return most >= QH_JSON_MAX_DEPTH;
}

static bool jansson_takes(const char *text, size_t len)
{
    json_t *v = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    json_decref(v);
    return v != NULL;
}

static void check_jansson_round_trip(const qh_str *text)
{
    json_t *v;
    qh_err err = {0};
    qh_str again = {0};
    if (qh_json_read(L, -1, &v, &err)) {
        REQUIRE(strstr(err.msg, "NUL byte in a key"));
        return;
    }
    qh_json_push(L, v);
    REQUIRE(!qh_json_encode(L, -1, false, &again, &err));
    REQUIRE(again.len == text->len && memcmp(again.data, text->data, text->len) == 0);
    lua_pop(L, 1);
    json_decref(v);
    qh_str_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!L) open_vm();
    const char *text = (const char *)data;
    qh_err err = {0};
    qh_str out = {0}, again = {0};
    if (qh_json_decode(L, text, size, &err)) {
        REQUIRE(strstr(err.msg, " at line "));
        bool has_nul = memchr(text, 0, size);       /* jansson takes one for the end */
        REQUIRE(has_nul || is_deep(text, size) || !jansson_takes(text, size));
    } else {
        REQUIRE(lua_gettop(L) == 1);
        REQUIRE(!qh_json_encode(L, 1, false, &out, &err));
        REQUIRE(jansson_takes(out.data, out.len) || memmem(out.data, out.len, "\\u0000", 6));
        REQUIRE(!qh_json_decode(L, out.data, out.len, &err));
        REQUIRE(!qh_json_encode(L, -1, false, &again, &err));
        REQUIRE(again.len == out.len && memcmp(again.data, out.data, out.len) == 0);
        lua_settop(L, 1);
        check_jansson_round_trip(&out);
    }
    lua_settop(L, 0);
    qh_str_deinit(&out);
    qh_str_deinit(&again);
    return 0;
}
