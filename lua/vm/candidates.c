/* candidates.c - see candidates.h */
#include "lua/vm/candidates.h"
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#define CLASS "qhost.candidates"

static qh_candidates *check(lua_State *L)
{
    qh_candidates *c = luaL_checkudata(L, 1, CLASS);
    if (!c->turn) luaL_error(L, "candidates are there within logits only");
    return c;
}

/* ---- order and weight, made when wanted ---- */

static bool comes_before(const qh_cand *a, const qh_cand *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

/* Shell's sort with Ciura's gaps (2001): for so few it beats a call for each comparison. */
static void sort(qh_candidates *c)
{
    static const int GAPS[] = {132, 57, 23, 10, 4, 1};
    qh_cand *v = c->turn->cands;
    if (c->is_sorted) return;
    for (size_t g = 0; g < sizeof GAPS / sizeof *GAPS; g++) {
        int gap = GAPS[g];
        for (int i = gap; i < c->turn->n; i++) {
            qh_cand x = v[i];
            int j = i;
            for (; j >= gap && comes_before(&x, &v[j - gap]); j -= gap) v[j] = v[j - gap];
            v[j] = x;
        }
    }
    c->is_sorted = true;
}

static void weigh(qh_candidates *c)
{
    if (c->is_weighed) return;
    c->sum = qh_cands_weigh(c->turn->cands, c->turn->n, c->max);
    c->is_weighed = true;
}

static float largest(const qh_turn *t)
{
    float max = -INFINITY;
    for (int i = 0; i < t->n; i++) max = t->cands[i].logit > max ? t->cands[i].logit : max;
    return max;
}

/* Some were removed: the weights of the others stay as they are. */
static void removed(qh_candidates *c)
{
    c->sum = 0;
    for (int i = 0; i < c->turn->n; i++) c->sum += (double)c->turn->cands[i].weight;
}

static void changed(qh_candidates *c)
{
    c->is_sorted = c->is_weighed = false;
    c->max = largest(c->turn);
}

void qh_candidates_begin(qh_candidates *c, qh_turn *t)
{
    *c = (qh_candidates){.turn = t, .max = t->max};
    weigh(c);
    c->sum_at_first = c->sum;
    for (int i = 0; i < t->n; i++) t->cands[i].key = t->cands[i].weight;
}

void qh_candidates_end(qh_candidates *c)
{
    if (c->turn) c->turn->max = c->max;
    c->turn = NULL;
}

double qh_candidates_chance(const qh_candidates *c, const qh_turn *t, qh_token id)
{
    for (int i = 0; i < t->n; i++)
        if (t->cands[i].id == id) return (double)t->cands[i].key / c->sum_at_first;
    return 0;
}

/* ---- looking ---- */

static int len(lua_State *L)
{
    lua_pushinteger(L, check(L)->turn->n);
    return 1;
}

/* Candidate i of the order; NULL: there are fewer. */
static const qh_cand *at(lua_State *L, qh_candidates *c)
{
    lua_Integer i = luaL_checkinteger(L, 2);
    luaL_argcheck(L, i >= 1, 2, "candidates count from 1");
    if (i > c->turn->n) return NULL;
    sort(c);
    return &c->turn->cands[i - 1];
}

/* prob(i) -> 0 when there are fewer */
static int prob(lua_State *L)
{
    qh_candidates *c = check(L);
    weigh(c);
    const qh_cand *x = at(L, c);
    lua_pushnumber(L, x ? (lua_Number)x->weight / c->sum : 0);
    return 1;
}

static int id(lua_State *L)
{
    const qh_cand *x = at(L, check(L));
    if (x) lua_pushinteger(L, x->id);
    else lua_pushnil(L);
    return 1;
}

static int logit(lua_State *L)
{
    const qh_cand *x = at(L, check(L));
    if (x) lua_pushnumber(L, (lua_Number)x->logit);
    else lua_pushnil(L);
    return 1;
}

/* text(i) -> the bytes of its piece */
static int text(lua_State *L)
{
    qh_candidates *c = check(L);
    const qh_cand *x = at(L, c);
    if (!x) return lua_pushnil(L), 1;
    qh_slice s = qh_vocab_bytes(c->turn->vocab, x->id);
    lua_pushlstring(L, s.data, s.len);
    return 1;
}

/* entropy() -> of what is left, in nats */
static int entropy(lua_State *L)
{
    qh_candidates *c = check(L);
    double h = 0;
    weigh(c);
    for (int i = 0; i < c->turn->n; i++) {
        double p = (double)c->turn->cands[i].weight / c->sum;
        if (p > 0) h -= p * log(p);
    }
    lua_pushnumber(L, h);
    return 1;
}

/* coin() -> uniform in (0,1), the same for the same seed, choice and position */
static int coin(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)qh_noise_coin(&check(L)->turn->noise));
    return 1;
}

/* ---- removing ---- */

static lua_Number check_number(lua_State *L, const char *name, lua_Number lo, lua_Number hi)
{
    lua_Number v = luaL_checknumber(L, 2);
    if (!(v >= lo && v <= hi))
        luaL_error(L, "%s is %f; a number from %f to %f is expected", name, v, lo, hi);
    return v;
}

static int chain(lua_State *L) { return lua_settop(L, 1), 1; }

static int find(const qh_turn *t, lua_Integer token)
{
    for (int i = 0; i < t->n; i++)
        if (t->cands[i].id == token) return i;
    return -1;
}

static void remove_at(qh_candidates *c, int i)
{
    qh_turn *t = c->turn;
    memmove(&t->cands[i], &t->cands[i + 1], sizeof *t->cands * (size_t)(t->n - i - 1));
    t->n--;
    removed(c);
}

/* ban(id): an id that is no candidate is banned already; nil: row.eos of a vocabulary without one */
static int ban(lua_State *L)
{
    qh_candidates *c = check(L);
    if (lua_isnil(L, 2)) return chain(L);
    int i = find(c->turn, luaL_checkinteger(L, 2));
    if (i >= 0) remove_at(c, i);
    return chain(L);
}

/* keep{id, ...}: all others go */
static int keep(lua_State *L)
{
    qh_candidates *c = check(L);
    qh_turn *t = c->turn;
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Unsigned n_ids = lua_rawlen(L, 2);
    luaL_argcheck(L, n_ids <= QH_POLICY_MAX_TOP, 2, "more ids than there can be candidates");
    int n = 0;
    for (lua_Unsigned k = 1; k <= n_ids; k++) {
        lua_rawgeti(L, 2, (lua_Integer)k);
        int is_integer;
        lua_Integer token = lua_tointegerx(L, -1, &is_integer);
        luaL_argcheck(L, is_integer, 2, "a list of token ids is expected");
        lua_pop(L, 1);
        int i = find(t, token);
        if (i < n) continue;                    /* not there, or named twice */
        qh_cand x = t->cands[i];
        t->cands[i] = t->cands[n];
        t->cands[n++] = x;
    }
    t->n = n;
    c->is_sorted = false;
    removed(c);
    return chain(L);
}

static int top_k(lua_State *L)
{
    qh_candidates *c = check(L);
    lua_Integer k = luaL_checkinteger(L, 2);
    luaL_argcheck(L, k >= 1, 2, "at least 1 is expected");
    if (k < c->turn->n) {
        sort(c);
        c->turn->n = (int)k;
        removed(c);
    }
    return chain(L);
}

static int top_p(lua_State *L)
{
    qh_candidates *c = check(L);
    lua_Number p = check_number(L, "top_p", 0, 1);
    double mass = 0;
    int n = 0;
    weigh(c);
    sort(c);
    double target = (double)(float)p * c->sum;
    while (n < c->turn->n && (n == 0 || mass < target)) mass += (double)c->turn->cands[n++].weight;
    c->turn->n = n;
    removed(c);
    return chain(L);
}

static int min_p(lua_State *L)
{
    qh_candidates *c = check(L);
    qh_turn *t = c->turn;
    float lo = largest(t) + logf((float)check_number(L, "min_p", 0, 1));
    int n = 0;
    for (int i = 0; i < t->n; i++)
        if (t->cands[i].logit >= lo) t->cands[n++] = t->cands[i];
    t->n = n;
    removed(c);
    return chain(L);
}

/* ---- changing ---- */

/* bias(id, x): an id that is no candidate stays none */
static int bias(lua_State *L)
{
    qh_candidates *c = check(L);
    int i = find(c->turn, luaL_checkinteger(L, 2));
    float x = (float)luaL_checknumber(L, 3);
    if (isnan(x) || x == INFINITY) return luaL_error(L, "bias is %f; a number is expected", (lua_Number)x);
    if (i >= 0 && x == -INFINITY) {
        remove_at(c, i);
    } else if (i >= 0) {
        c->turn->cands[i].logit += x;
        changed(c);
    }
    return chain(L);
}

/* scale(x): logits times x; above 1 the likely ones become likelier */
static int scale(lua_State *L)
{
    qh_candidates *c = check(L);
    float x = (float)check_number(L, "scale", 1e-6, 1e6);
    for (int i = 0; i < c->turn->n; i++) c->turn->cands[i].logit *= x;
    changed(c);
    return chain(L);
}

/* temperature(t): of the draw, 0 takes the best; temperature() -> what it is */
static int temperature(lua_State *L)
{
    qh_candidates *c = check(L);
    if (lua_isnoneornil(L, 2)) {
        lua_pushnumber(L, (lua_Number)c->turn->temperature);
        return 1;
    }
    c->turn->temperature = (float)check_number(L, "temperature", 0, 100);
    return chain(L);
}

/* ---- the class ---- */

#define METHODS(X)                                                                                 \
    X(prob) X(id) X(logit) X(text) X(entropy) X(coin) X(ban) X(keep) X(top_k) X(top_p) X(min_p)    \
    X(bias) X(scale) X(temperature)

const char *const qh_candidates_methods[] = {
#define X(name) #name,
    METHODS(X)
#undef X
    NULL};

qh_candidates *qh_candidates_push(lua_State *L)
{
    static const luaL_Reg LIST[] = {
#define X(name) {#name, name},
        METHODS(X)
#undef X
        {NULL, NULL}};
    qh_candidates *c = lua_newuserdatauv(L, sizeof *c, 0);
    *c = (qh_candidates){0};
    luaL_newmetatable(L, CLASS);
    luaL_newlib(L, LIST);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, len);
    lua_setfield(L, -2, "__len");
    lua_setmetatable(L, -2);
    return c;
}
