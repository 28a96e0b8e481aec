/* spec.c - see spec.h */
#include "lua/bind/spec.h"
#include "lua/bind/policy.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include <lauxlib.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

enum { MAX_IDS = 1 << 20, MAX_STRINGS = 1024, MAX_BIASES = 1024 };

typedef enum { FLOAT, INT, BOOL } scalar_kind;

#define GEN(name, kind, field) {name, kind, offsetof(qh_gen, field)}
static const struct {
    const char *name;
    scalar_kind kind;
    size_t at;
} SCALARS[] = {
    GEN("temperature", FLOAT, sampling.temperature),
    GEN("top_k", INT, sampling.top_k),
    GEN("top_p", FLOAT, sampling.top_p),
    GEN("min_p", FLOAT, sampling.min_p),
    GEN("typical_p", FLOAT, sampling.typical_p),
    GEN("xtc_probability", FLOAT, sampling.xtc_probability),
    GEN("xtc_threshold", FLOAT, sampling.xtc_threshold),
    GEN("repeat_penalty", FLOAT, sampling.repeat_penalty),
    GEN("presence_penalty", FLOAT, sampling.presence_penalty),
    GEN("frequency_penalty", FLOAT, sampling.frequency_penalty),
    GEN("penalty_window", INT, sampling.penalty_window),
    GEN("dry_multiplier", FLOAT, sampling.dry_multiplier),
    GEN("dry_base", FLOAT, sampling.dry_base),
    GEN("dry_allowed_length", INT, sampling.dry_allowed_length),
    GEN("dry_window", INT, sampling.dry_window),
    GEN("n", INT, n_choices),
    GEN("max_tokens", INT, max_tokens),
    GEN("min_tokens", INT, min_tokens),
    GEN("ignore_eos", BOOL, ignore_eos),
    GEN("keep_stop", BOOL, keep_stop_string),
    GEN("logprobs", BOOL, logprobs),
    GEN("top_logprobs", INT, top_logprobs),
    GEN("prompt_logprobs", BOOL, prompt_logprobs),
    GEN("tokens", BOOL, wants_tokens),
    GEN("priority", INT, priority),
};
#undef GEN

/* The reader of a spec raises nothing: what is wrong goes to err, so that gen cannot leak. The
 * value is on top of the stack. */
typedef struct {
    lua_State *L;
    qh_gen *gen;
    qh_err *err;
    const char *key;
} spec;

static qh_status fail_type(const spec *s, const char *want)
{
    return qh_fail(s->err, QH_EINVAL, "'%s' is a %s; %s is expected", s->key,
                   luaL_typename(s->L, -1), want);
}

static qh_status read_int(const spec *s, int *out)
{
    int is_integer = lua_type(s->L, -1) == LUA_TNUMBER;
    lua_Integer v = is_integer ? lua_tointegerx(s->L, -1, &is_integer) : 0;
    if (!is_integer) return fail_type(s, "an integer");
    *out = v > INT_MAX ? INT_MAX : v < INT_MIN ? INT_MIN : (int)v;
    return QH_OK;
}

static qh_status read_scalar(const spec *s, scalar_kind kind, char *at)
{
    switch (kind) {
    case INT: return read_int(s, (int *)at);
    case BOOL:
        if (!lua_isboolean(s->L, -1)) return fail_type(s, "a boolean");
        *(bool *)at = lua_toboolean(s->L, -1);
        return QH_OK;
    default:
        if (lua_type(s->L, -1) != LUA_TNUMBER) return fail_type(s, "a number");
        *(float *)at = (float)lua_tonumber(s->L, -1);
        return QH_OK;
    }
}

static qh_status read_strings(const spec *s, char ***out, int *n_out)
{
    if (!lua_istable(s->L, -1)) return fail_type(s, "a list of strings");
    lua_Unsigned n = lua_rawlen(s->L, -1);
    if (n > MAX_STRINGS)
        return qh_fail(s->err, QH_EINVAL, "'%s' has more than %d entries", s->key, MAX_STRINGS);
    for (int i = 0; i < *n_out; i++) qh_free((*out)[i]);
    *n_out = 0;
    *out = qh_realloc(*out, sizeof **out * (n ? n : 1));
    for (int i = 0; i < (int)n; i++) {
        lua_rawgeti(s->L, -1, i + 1);
        size_t len = 0;
        const char *text = lua_type(s->L, -1) == LUA_TSTRING ? lua_tolstring(s->L, -1, &len) : NULL;
        if (text && !memchr(text, 0, len)) (*out)[(*n_out)++] = qh_strndup(text, len);
        lua_pop(s->L, 1);
        if (*n_out != i + 1)
            return qh_fail(s->err, QH_EINVAL, "'%s'[%d] is no string without NUL bytes", s->key, i);
    }
    return QH_OK;
}

/* A list of token ids, appended to out. */
static qh_status read_ids(const spec *s, qh_tokens *out)
{
    if (!lua_istable(s->L, -1)) return fail_type(s, "a list of token ids");
    lua_Unsigned n = lua_rawlen(s->L, -1);
    if (n > MAX_IDS)
        return qh_fail(s->err, QH_EINVAL, "'%s' has more than %d ids", s->key, MAX_IDS);
    for (int i = 0; i < (int)n; i++) {
        int is_integer;
        lua_rawgeti(s->L, -1, i + 1);
        lua_Integer v = lua_tointegerx(s->L, -1, &is_integer);
        lua_pop(s->L, 1);
        if (!is_integer || v < 0 || v > INT32_MAX)
            return qh_fail(s->err, QH_EINVAL, "'%s'[%d] is no token id", s->key, i);
        qh_token id = (qh_token)v;
        qh_status st = qh_tokens_append(out, &id, 1);
        if (st) return qh_fail(s->err, st, "'%s': no memory for %d ids", s->key, (int)n);
    }
    return QH_OK;
}

/* The same as an array of the job's own, in place of the one it has. */
static qh_status read_id_array(const spec *s, qh_token **out, int *n_out)
{
    qh_tokens ids = {0};
    qh_status st = read_ids(s, &ids);
    qh_free(*out);
    *out = ids.ids;
    *n_out = ids.len;
    return st;
}

/* {[id] = bias} */
static qh_status read_bias(const spec *s)
{
    lua_State *L = s->L;
    qh_sampling *to = &s->gen->sampling;
    if (!lua_istable(L, -1)) return fail_type(s, "a table of biases by token id");
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        bool is_pair = lua_isinteger(L, -2) && lua_type(L, -1) == LUA_TNUMBER;
        lua_Integer id = is_pair ? lua_tointeger(L, -2) : -1;
        if (id < 0 || id > INT32_MAX || to->n_bias >= MAX_BIASES) {
            lua_pop(L, 2);
            return qh_fail(s->err, QH_EINVAL, "'%s' is a table of at most %d biases by token id",
                           s->key, MAX_BIASES);
        }
        if (to->n_bias % 64 == 0)
            to->bias = qh_realloc(to->bias, sizeof *to->bias * (size_t)(to->n_bias + 64));
        to->bias[to->n_bias++] = (qh_logit_bias){(qh_token)id, (float)lua_tonumber(L, -1)};
    }
    return QH_OK;
}

static qh_status read_timeout(const spec *s)
{
    lua_Number seconds = lua_type(s->L, -1) == LUA_TNUMBER ? lua_tonumber(s->L, -1) : -1;
    if (!(seconds > 0 && seconds < 1e9))
        return qh_fail(s->err, QH_EINVAL, "'%s' is no number of seconds above 0", s->key);
    s->gen->deadline_us = qh_now_us() + (int64_t)(seconds * 1e6);
    return QH_OK;
}

static qh_status read_salt(const spec *s)
{
    size_t len;
    if (lua_type(s->L, -1) != LUA_TSTRING) return fail_type(s, "a string");
    const char *text = lua_tolstring(s->L, -1, &len);
    s->gen->cache_salt = qh_hash_bytes(text, len, 0);
    return QH_OK;
}

static qh_status read_seed(const spec *s)
{
    if (!lua_isinteger(s->L, -1)) return fail_type(s, "an integer");
    s->gen->sampling.seed = (uint64_t)lua_tointeger(s->L, -1);
    s->gen->sampling.has_seed = true;
    return QH_OK;
}

static qh_status read_policy(const spec *s)
{
    qh_policy_unref(s->gen->policy);
    s->gen->policy = qh_policy_at(s->L, lua_gettop(s->L));
    return s->gen->policy ? QH_OK : fail_type(s, "a policy");
}

static qh_status read_field(const spec *s, bool *is_known)
{
    qh_gen *g = s->gen;
    *is_known = true;
    for (size_t i = 0; i < sizeof SCALARS / sizeof *SCALARS; i++)
        if (strcmp(s->key, SCALARS[i].name) == 0)
            return read_scalar(s, SCALARS[i].kind, (char *)g + SCALARS[i].at);
    if (strcmp(s->key, "ids") == 0) return read_ids(s, &g->prompt);
    if (strcmp(s->key, "seed") == 0) return read_seed(s);
    if (strcmp(s->key, "stop") == 0) return read_strings(s, &g->stop_strings, &g->n_stop_strings);
    if (strcmp(s->key, "stop_ids") == 0)
        return read_id_array(s, &g->stop_tokens, &g->n_stop_tokens);
    if (strcmp(s->key, "shown_ids") == 0)
        return read_id_array(s, &g->shown_tokens, &g->n_shown_tokens);
    if (strcmp(s->key, "logit_bias") == 0) return read_bias(s);
    if (strcmp(s->key, "dry_breakers") == 0)
        return read_strings(s, &g->sampling.dry_breakers, &g->sampling.n_dry_breakers);
    if (strcmp(s->key, "timeout") == 0) return read_timeout(s);
    if (strcmp(s->key, "cache_salt") == 0) return read_salt(s);
    if (strcmp(s->key, "policy") == 0) return read_policy(s);
    *is_known = false;
    return qh_fail(s->err, QH_EINVAL, "submit has no field '%s'", s->key);
}

qh_status qh_spec_read(lua_State *L, int index, qh_gen *gen, bool *is_known, qh_err *err)
{
    *is_known = true;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        bool has_name = lua_type(L, -2) == LUA_TSTRING;
        spec s = {L, gen, err, has_name ? lua_tostring(L, -2) : "[number]"};
        qh_status st = read_field(&s, is_known);
        if (st) {
            lua_pop(L, 2);
            return st;
        }
    }
    return QH_OK;
}
